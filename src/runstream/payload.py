"""Payloads: a Python value as JSON bytes, exactly, or an error at the call.

What comes out is compact UTF-8 JSON without line breaks (so it fits one SSE `data:` line), in which
nothing was silently changed: NaN and infinity are refused rather than turned into null.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from pydantic import BaseModel

from .errors import InvalidPayload, PayloadTooLarge

# One record. Larger things belong in an object store, with a reference in the stream; the limit is that of
# the services that we are compared with, so payloads can move between them.
RECORD_SIZE_BYTES_MAX = 1024 * 1024
# A message that holds a whole document must not make the record of the failure fail.
EXCEPTION_LENGTH_MAX = 10_000

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
    if isinstance(payload, (dict, BaseModel, msgspec.Struct)) or _is_dataclass(payload):
        return encode_json(payload, size_bytes_max=size_bytes_max)
    if isinstance(payload, (bytes, bytearray, memoryview)):
        # Raw is copied as it is, after the checks.
        return encode_json(msgspec.Raw(bytes(payload)), size_bytes_max=size_bytes_max)
    raise InvalidPayload(
        "a payload is a dict, an event, a pydantic model, a dataclass, a msgspec struct or "
        f"ready-made JSON as bytes, not {type(payload).__name__}"
    )


def encode_json(value: object, *, size_bytes_max: int = RECORD_SIZE_BYTES_MAX) -> bytes:
    """Any value as compact JSON in one line. Raises as `encode_payload` does."""
    try:
        if isinstance(value, BaseModel):
            raw = value.__pydantic_serializer__.to_json(value, by_alias=True)
        else:
            raw = _encode(value)
        # Our encoder's own text is sound, but `msgspec.Raw` inside a value is copied unseen.
        _check_grammar(raw)
        if not raw.isascii():
            raw.decode()
    except _NOT_JSON as error:
        raise InvalidPayload(f"the payload is not JSON: {_reason(error)}") from error
    if len(raw) > size_bytes_max:
        raise PayloadTooLarge(
            f"the payload is {len(raw)} bytes of JSON, the limit is {size_bytes_max}: store large data "
            "elsewhere and publish a reference to it"
        )
    if b"null" in raw:
        _refuse_non_finite(value)
    if b"\n" in raw or b"\r" in raw:
        raw = msgspec.json.format(raw, indent=-1)
    return raw


def decode_payload(raw: bytes | msgspec.Raw) -> Any:
    """The Python value of stored JSON."""
    return msgspec.json.decode(raw)


def exception_payload(error: BaseException) -> dict[str, str]:
    """What a stream says of an exception: its type and message, whatever text that holds."""
    message = str(error).encode("utf-8", "backslashreplace").decode()
    return {"type": type(error).__name__, "message": message[:EXCEPTION_LENGTH_MAX]}


def _is_dataclass(value: object) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply, or contains itself"
    if isinstance(error, UnicodeError):
        return f"it holds text that is not valid Unicode ({error.reason})"  # type: ignore[attr-defined]
    return str(error)


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
        return list(value.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, (list, tuple, set, frozenset)):
        return list(value)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    if _is_dataclass(value):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]  # type: ignore[arg-type]
    return ()
