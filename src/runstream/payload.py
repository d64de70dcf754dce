"""Payloads: a Python value as JSON bytes, exactly, or an error at the call.

What comes out is compact UTF-8 JSON without line breaks (so it fits one SSE `data:` line), in which
nothing was silently changed: NaN and infinity are refused rather than turned into null.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import lru_cache
from typing import Any, Final, cast

import msgspec
from pydantic import BaseModel

from .errors import InvalidPayload, PayloadTooLarge
from .json_text import check_json, is_deeper

# One record. Larger things belong in an object store, with a reference in the stream; the limit is that of
# the services that we are compared with, so payloads can move between them.
RECORD_SIZE_BYTES_MAX: Final = 1024 * 1024
# Readers differ in how deep they go (serde stops at 128, pydantic at 200, Python where its stack ends);
# what is stored must be readable by all of them.
NESTING_MAX: Final = 100
# An exception's message, or the reason of a cancel: one that holds a whole document must not make the record
# of the failure fail.
TEXT_LENGTH_MAX: Final = 10_000

# Takes the payload and the limit on its size.
PayloadEncoder = Callable[[Any, int], bytes]
# A step's result in its record: enough to see what it did; the run's own result may be a whole record.
RESULT_SIZE_BYTES_MAX = 64 * 1024
# A result that is not JSON is shown by this much of its repr.
REPR_LENGTH_MAX = 500

# Values of these types alone are nothing that the encoder copies unseen.
_HARMLESS = frozenset({str, int, bool, type(None)})
_NOT_JSON = (TypeError, ValueError, OverflowError, RecursionError)


def _plain(value: object) -> object:
    """The encoder's hook: pydantic models, and subclasses of text and numbers, inside other values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", by_alias=True)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, float):  # numpy's float64 is one
        return float(value)
    if isinstance(value, int):
        return int(value)
    raise TypeError(f"a value of type {type(value).__name__} is not JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def encode_payload(payload: Any, *, size_bytes_max: int = RECORD_SIZE_BYTES_MAX) -> bytes:
    """Encode a dict, event, pydantic model, dataclass or msgspec struct; bytes are ready-made JSON.

    Raises:
        InvalidPayload: not one of these, not JSON, NaN or infinity, too deep, or not UTF-8.
        PayloadTooLarge: more than `size_bytes_max` bytes of JSON.
    """
    return payload_encoder(payload.__class__)(payload, size_bytes_max)


# Looked up by class, because pydantic's own `isinstance` costs as much as encoding a small event.
@lru_cache(maxsize=1024)
def payload_encoder(cls: type[Any]) -> PayloadEncoder:
    """What encodes payloads of this class, as `encode_payload` does.

    Raises:
        InvalidPayload: nothing of this class is a payload.
    """
    if issubclass(cls, dict):
        return _encode_dict
    if issubclass(cls, BaseModel):
        return _encode_model if _serializes_itself(cls) else _encode_plain_model
    if issubclass(cls, (bytes, bytearray, memoryview)):
        return _encode_ready
    if issubclass(cls, msgspec.Struct) or dataclasses.is_dataclass(cls):
        return _encode_value
    raise InvalidPayload(
        "a payload is a dict, an event, a pydantic model, a dataclass, a msgspec struct or "
        f"ready-made JSON as bytes, not {cls.__name__}"
    )


def encode_json(value: Any, *, size_bytes_max: int = RECORD_SIZE_BYTES_MAX) -> bytes:
    """Any value as compact JSON in one line. Raises as `encode_payload` does."""
    encoder = _encode_model if _is_model(value.__class__) else _encode_value
    return encoder(value, size_bytes_max)


def _encode_dict(payload: dict[Any, Any], size_bytes_max: int) -> bytes:
    return _encode_flat(payload, size_bytes_max) or _encode_value(payload, size_bytes_max)


def _encode_plain_model(model: Any, size_bytes_max: int) -> bytes:
    # The common event: its fields are its JSON, so the shorter way and its cheaper checks will do.
    if model.__pydantic_extra__:
        return _encode_model(model, size_bytes_max)
    return _encode_flat(model.__dict__, size_bytes_max) or _encode_model(model, size_bytes_max)


def _encode_flat(fields: dict[Any, Any], size_bytes_max: int) -> bytes | None:
    """The encoding of values that need no look at it, None if there are others."""
    for value in fields.values():
        # Of exactly these types: a subclass may hold anything.
        if type(value) not in _HARMLESS and not (type(value) is float and math.isfinite(value)):
            return None
    try:
        raw = _encode(fields)
    except _NOT_JSON as error:
        raise _not_json(error) from error
    if len(raw) > size_bytes_max:
        raise _too_large(raw, size_bytes_max)
    return raw


def _serializes_itself(cls: type[BaseModel]) -> bool:
    """Whether pydantic does more for this class than write its fields under their names."""
    waiting: list[Any] = [cls.__pydantic_core_schema__]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            part = cast("dict[str, Any]", part)
            if any(
                key.startswith(("serialization", "computed_fields")) and part[key] for key in part
            ):
                return True
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple)):
            waiting.extend(cast("list[Any]", part))
    return bool(cls.model_config.get("json_encoders"))


def _encode_model(model: Any, size_bytes_max: int) -> bytes:
    try:
        raw = model.__pydantic_serializer__.to_json(model, by_alias=True)
    except _NOT_JSON as error:
        raise _not_json(error) from error
    return _checked(model, raw, size_bytes_max)


def _encode_ready(payload: Any, size_bytes_max: int) -> bytes:
    # Copied as it is, after the checks.
    return _encode_value(msgspec.Raw(bytes(payload)), size_bytes_max)


def _encode_value(value: object, size_bytes_max: int) -> bytes:
    try:
        raw = _encode(value)
    except _NOT_JSON as error:
        raise _not_json(error) from error
    return _checked(value, raw, size_bytes_max)


def _checked(value: object, raw: bytes, size_bytes_max: int) -> bytes:
    """`raw`, the encoding of `value`, if every reader will understand it, and rightly."""
    if len(raw) > size_bytes_max:
        raise _too_large(raw, size_bytes_max)
    try:
        # The encoder's own text is sound, but `msgspec.Raw` inside a value is copied unseen, and our events
        # write NaN for this to find. What can be decoded here can be decoded anywhere.
        check_json(raw)
    except _NOT_JSON as error:
        _refuse_non_finite(value)  # which is the clearer thing to say
        raise _not_json(error) from error
    if is_deeper(raw, NESTING_MAX):
        raise _too_deep(NESTING_MAX)
    if raw.find(b"null") >= 0:
        _refuse_non_finite(value)
    if raw.find(b"\n") >= 0 or raw.find(b"\r") >= 0:
        raw = msgspec.json.format(raw, indent=-1)
    return raw


def check_inside(raw: bytes, *, levels: int) -> bytes:
    """`raw`, what `encode_json` gave, if it is not too deep `levels` deeper inside a record, either.

    Raises InvalidPayload.
    """
    nesting_max = NESTING_MAX - levels
    if is_deeper(raw, nesting_max):
        raise _too_deep(nesting_max)
    return raw


def decode_payload(raw: bytes | msgspec.Raw) -> Any:
    """The Python value of stored JSON."""
    return msgspec.json.decode(raw)


def result_fields(
    result: object, *, size_bytes_max: int = RESULT_SIZE_BYTES_MAX
) -> dict[str, object]:
    """What a record says of a result: itself if it is JSON and not too large, else how Python shows it."""
    if result is None:
        return {"result": None}
    try:
        raw = check_inside(encode_json(result, size_bytes_max=size_bytes_max), levels=1)
        return {"result": msgspec.Raw(raw)}
    except PayloadTooLarge:
        reason = "too_large"
    except InvalidPayload:
        reason = "not_json"
    try:
        shown = repr(result)[:REPR_LENGTH_MAX]
    except Exception as error:  # noqa: BLE001 - a `__repr__` of somebody else's
        shown = f"<{type(result).__name__}, whose repr raises {type(error).__name__}>"
    shown = shown.encode("utf-8", "backslashreplace").decode()
    return {"result": None, "result_repr": shown, reason: True}


def exception_payload(error: BaseException) -> dict[str, str]:
    """What a stream says of an exception: its type and message, whatever text that holds."""
    try:
        text = str(error)
    except Exception as unprintable:  # noqa: BLE001 - whatever a user's class does
        # The failure that is to be told must not be replaced by a failure to tell it.
        text = f"(its message cannot be shown: {type(unprintable).__name__})"
    return {"type": type(error).__name__, "message": cut_text(text)}


def cut_text(text: str) -> str:
    """Text of somebody else's, made fit for a record: not too long, and valid Unicode."""
    valid = text[:TEXT_LENGTH_MAX].encode("utf-8", "backslashreplace").decode()
    return valid[:TEXT_LENGTH_MAX]


@lru_cache(maxsize=1024)
def _is_model(cls: type[Any]) -> bool:
    return issubclass(cls, BaseModel)


def _too_large(raw: bytes, size_bytes_max: int) -> PayloadTooLarge:
    return PayloadTooLarge(
        f"the payload is {len(raw)} bytes of JSON, the limit is {size_bytes_max}: store large data "
        "elsewhere and publish a reference to it"
    )


def _not_json(error: Exception) -> InvalidPayload:
    match error:
        case RecursionError():
            reason = "it is nested too deeply, or contains itself"
        case UnicodeEncodeError() | UnicodeDecodeError():
            reason = f"it holds text that is not valid Unicode ({error.reason})"
        case _:
            reason = str(error)
    return InvalidPayload(f"the payload is not JSON: {reason}")


def _too_deep(nesting_max: int) -> InvalidPayload:
    return InvalidPayload(
        f"the payload is nested more than {nesting_max} levels deep, which not every reader can follow"
    )


def _refuse_non_finite(payload: object) -> None:
    """Both encoders turn NaN and infinity into null, which would be a silent change."""
    waiting: list[object] = [payload]
    while waiting:
        value = waiting.pop()
        if isinstance(value, float):
            if not math.isfinite(value):
                raise InvalidPayload(f"{value} is not JSON: publish null or text instead")
        elif not isinstance(value, (str, bytes, int)):
            # (Of what is most of a large payload, none is looked at one by one.)
            waiting += [part for part in _parts(value) if part.__class__ not in _HARMLESS]


def _parts(value: object) -> Iterable[object]:
    """What of a value is encoded inside of it."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return cast("Iterable[object]", value)
    if isinstance(value, (dict, Mapping)):  # (whether it is a dict is seen much sooner)
        return cast("Mapping[object, object]", value).values()
    if isinstance(value, BaseModel):
        # Its own view of itself: with computed fields, without excluded ones; NaN is still NaN here.
        return (value.model_dump(),)
    if isinstance(value, Enum):
        return (value.value,)
    names: Iterable[str]
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    elif dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
    else:  # the encoder knows attrs classes too
        names = [field.name for field in getattr(type(value), "__attrs_attrs__", ())]
    return [getattr(value, name, None) for name in names]
