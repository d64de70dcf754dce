"""Payloads: a Python value as JSON bytes, exactly, or an error at the call.

What comes out is compact UTF-8 JSON without line breaks (so it fits one SSE `data:` line), in which
nothing was silently changed: NaN and infinity are refused rather than turned into null.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, cast

import msgspec
from pydantic import BaseModel

from .errors import InvalidPayload, PayloadTooLarge

# One record. Larger things belong in an object store, with a reference in the stream; the limit is that of
# the services that we are compared with, so payloads can move between them.
RECORD_SIZE_BYTES_MAX = 1024 * 1024
# A message that holds a whole document must not make the record of the failure fail.
EXCEPTION_LENGTH_MAX = 10_000

# Values of these types alone cannot be NaN, nor anything that the encoder copies unseen.
_HARMLESS = frozenset({str, int, bool, type(None)})
_NOT_JSON = (TypeError, ValueError, OverflowError, RecursionError)


def _plain(value: object) -> object:
    """The encoder's hook: pydantic models inside other values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    raise TypeError(f"a {type(value).__name__} is not JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
# Decoding to Raw checks the grammar and builds nothing.
_check_grammar = msgspec.json.Decoder(msgspec.Raw).decode


def encode_payload(payload: object, *, size_bytes_max: int = RECORD_SIZE_BYTES_MAX) -> bytes:
    """Encode a dict, event, pydantic model, dataclass or msgspec struct; bytes are ready-made JSON.

    Raises:
        InvalidPayload: not one of these, not JSON, NaN or infinity, too deep, or not UTF-8.
        PayloadTooLarge: more than `size_bytes_max` bytes of JSON.
    """
    if isinstance(payload, dict):
        values = cast("dict[object, object]", payload)
        if _HARMLESS.issuperset(map(type, values.values())):
            # The common payload: of what the checks in `encode_json` look for it can hold nothing.
            try:
                return _limited(_encode(values), size_bytes_max)
            except _NOT_JSON as error:
                raise _not_json(error) from error
        return encode_json(values, size_bytes_max=size_bytes_max)
    if _is_model(type(payload)):
        return _limited(_encode_model(cast(BaseModel, payload)), size_bytes_max)
    if isinstance(payload, msgspec.Struct) or _is_dataclass(payload):
        return encode_json(payload, size_bytes_max=size_bytes_max)
    if isinstance(payload, (bytes, bytearray, memoryview)):
        # Raw is copied as it is, after the checks.
        raw = msgspec.Raw(bytes(cast("bytes", payload)))
        return encode_json(raw, size_bytes_max=size_bytes_max)
    raise InvalidPayload(
        "a payload is a dict, an event, a pydantic model, a dataclass, a msgspec struct or "
        f"ready-made JSON as bytes, not {type(payload).__name__}"
    )


def encode_json(value: object, *, size_bytes_max: int = RECORD_SIZE_BYTES_MAX) -> bytes:
    """Any value as compact JSON in one line. Raises as `encode_payload` does."""
    if _is_model(type(value)):
        return _limited(_encode_model(cast(BaseModel, value)), size_bytes_max)
    try:
        raw = _encode(value)
        # The encoder's own text is sound, but `msgspec.Raw` inside a value is copied unseen.
        _check_grammar(raw)
        if not raw.isascii():
            raw.decode()
    except _NOT_JSON as error:
        raise _not_json(error) from error
    _limited(raw, size_bytes_max)
    # (`find` is twice as fast as `in`.)
    if raw.find(b"null") >= 0:
        _refuse_non_finite(value)
    if raw.find(b"\n") >= 0 or raw.find(b"\r") >= 0:
        raw = msgspec.json.format(raw, indent=-1)
    return raw


def _encode_model(model: BaseModel) -> bytes:
    try:
        raw = model.__pydantic_serializer__.to_json(model, by_alias=True)
        # Pydantic writes sound text, but for the NaN that our events keep for this check to find.
        _check_grammar(raw)
    except _NOT_JSON as error:
        raise _not_json(error) from error
    if raw.find(b"null") >= 0:
        _refuse_non_finite(model)
    return raw


def _limited(raw: bytes, size_bytes_max: int) -> bytes:
    if len(raw) > size_bytes_max:
        raise PayloadTooLarge(
            f"the payload is {len(raw)} bytes of JSON, the limit is {size_bytes_max}: store large data "
            "elsewhere and publish a reference to it"
        )
    return raw


def decode_payload(raw: bytes | msgspec.Raw) -> Any:
    """The Python value of stored JSON."""
    return msgspec.json.decode(raw)


def exception_payload(error: BaseException) -> dict[str, str]:
    """What a stream says of an exception: its type and message, whatever text that holds."""
    message = str(error).encode("utf-8", "backslashreplace").decode()
    return {"type": type(error).__name__, "message": message[:EXCEPTION_LENGTH_MAX]}


@lru_cache(maxsize=1024)
def _is_model(cls: type) -> bool:
    # Pydantic's own `isinstance` costs as much as encoding a small event.
    return issubclass(cls, BaseModel)


def _is_dataclass(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _not_json(error: Exception) -> InvalidPayload:
    if isinstance(error, InvalidPayload):
        return error
    match error:
        case RecursionError():
            reason = "it is nested too deeply, or contains itself"
        case UnicodeEncodeError() | UnicodeDecodeError():
            reason = f"it holds text that is not valid Unicode ({error.reason})"
        case _:
            reason = str(error)
    return InvalidPayload(f"the payload is not JSON: {reason}")


def _refuse_non_finite(payload: object) -> None:
    """Both encoders turn NaN and infinity into null, which would be a silent change."""
    waiting: list[object] = [payload]
    while waiting:
        value = waiting.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                raise InvalidPayload(f"{value} is not JSON: publish null or text instead")
        elif not isinstance(value, (str, bytes, int)):
            waiting.extend(_parts(value))


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, BaseModel):
        return (*value.__dict__.values(), *(value.__pydantic_extra__ or {}).values())
    if isinstance(value, Mapping):
        return cast("Mapping[object, object]", value).values()
    if isinstance(value, (list, tuple, set, frozenset)):
        return cast("Iterable[object]", value)
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return ()
