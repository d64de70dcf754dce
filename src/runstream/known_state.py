"""A task's state as its readers know it: what has to be streamed is the difference to it.

The difference is taken between *encoded* values, so neither aliasing (a list changed in place) nor
equality that JSON does not share (`1 == True`) can hide a change. A change that is refused leaves
everything as it was.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Final

import msgspec
from pydantic import BaseModel

from .errors import InvalidInput, PayloadTooLarge
from .patch import Operation, diff_encoded, escape_token
from .payload import RECORD_SIZE_BYTES_MAX, encode_json

# Records of a task hold ids, names and a version beside the state.
STATE_SIZE_BYTES_MAX: Final = RECORD_SIZE_BYTES_MAX - 4096
# Quotes, colon and comma around a field.
_PUNCTUATION: Final = 4


class _Field:
    """One top-level field as it was last streamed, in encoded parts, so that it can grow cheaply."""

    __slots__ = ("_parts", "size_bytes", "strings")

    def __init__(self, raw: bytes, value: object) -> None:
        self._parts = [raw]
        self.size_bytes = len(raw)
        # A copy of a list that holds only text. Text cannot change, so comparing the old items is exact
        # (and by identity, fast), and a list that has grown costs no new encoding of them.
        self.strings: list[str] | None = None
        if type(value) is list and all(type(item) is str for item in value):
            self.strings = list(value)

    def raw(self) -> bytes:
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0]

    def grow(self, value: str | list[object], raw: bytes) -> None:
        """Append text or items whose encoding is `raw`."""
        if isinstance(value, list):
            if self.strings is not None and all(type(item) is str for item in value):
                self.strings.extend(value)  # type: ignore[arg-type] # looked at above
            else:
                self.strings = None
        last = self._parts.pop()
        empty = not self._parts and last == b"[]"
        inside = raw[1:] if isinstance(value, str) or empty else b"," + raw[1:]
        self._parts += [last[:-1], inside]
        self.size_bytes += len(inside) - 1

    def added_strings(self, value: object) -> list[str] | None:
        """What `value` has behind our items, if it is our list of text and only grew; else None."""
        if self.strings is None or type(value) is not list:
            return None
        count = len(self.strings)
        if value[:count] != self.strings:
            return None
        added: list[str] = value[count:]
        return added if all(type(item) is str for item in added) else None


class KnownState:
    """A dict is compared field by field; a pydantic model or dataclass as a whole."""

    def __init__(self, state: object) -> None:
        self._fields: dict[str, _Field] = {}
        self._whole: bytes | None = None
        self.size_bytes = 2
        self.change_to(state)

    def whole(self) -> msgspec.Raw:
        """The full state as JSON."""
        if self._whole is not None:
            return msgspec.Raw(self._whole)
        fields = (encode_json(key) + b":" + field.raw() for key, field in self._fields.items())
        return msgspec.Raw(b"{" + b",".join(fields) + b"}")

    def change_to(self, state: object) -> list[Operation]:
        """The operations that lead from what is known to `state`, which is known from then on.

        Raises:
            InvalidInput: not a dict with string keys, a model or a dataclass; not JSON; too large.
        """
        if isinstance(state, dict) and self._whole is None:
            return self._change_fields(state)  # pyright: ignore[reportUnknownArgumentType]
        if not isinstance(state, (dict, BaseModel)) and not dataclasses.is_dataclass(state):
            raise InvalidInput(
                "a task's state is a dict, a pydantic model or a dataclass, "
                f"not {type(state).__name__}"
            )
        new = encode_json(state, size_bytes_max=STATE_SIZE_BYTES_MAX)
        if not new.startswith(b"{"):
            raise InvalidInput("a task's state must be a JSON object")
        operations = diff_encoded(bytes(self.whole()), new)
        self._whole, self._fields, self.size_bytes = new, {}, len(new)
        return operations

    def grow(self, key: str, value: str | list[object]) -> Operation:
        """Append text or items to the field `key` of a dict. Raises as `change_to` does."""
        raw = encode_json(value)
        field = self._fields[key]
        _check_size(self.size_bytes + len(raw))
        field.grow(value, raw)
        self.size_bytes += len(raw)
        return {"op": "append", "path": _pointer(key), "value": msgspec.Raw(raw)}  # type: ignore[dict-item]

    def _change_fields(self, state: Mapping[str, object]) -> list[Operation]:
        operations: list[Operation] = []
        grown: list[tuple[_Field, list[object], bytes]] = []
        fields: dict[str, _Field] = {}
        size_bytes = 2
        for key, value in state.items():
            if not isinstance(key, str):
                raise InvalidInput(f"the keys of a task's state are strings, not {key!r}")
            known = self._fields.get(key)
            added = known.added_strings(value) if known is not None else None
            if known is None:
                raw = encode_json(value, size_bytes_max=STATE_SIZE_BYTES_MAX)
                fields[key] = field = _Field(raw, value)
                operations.append({"op": "add", "path": _pointer(key), "value": msgspec.Raw(raw)})  # type: ignore[dict-item]
            elif added is not None:
                fields[key] = field = known
                if added:
                    raw = encode_json(added)
                    grown.append((known, [*added], raw))
                    size_bytes += len(raw)
                    operations.append(
                        {"op": "append", "path": _pointer(key), "value": msgspec.Raw(raw)}  # type: ignore[dict-item]
                    )
            else:
                raw = encode_json(value, size_bytes_max=STATE_SIZE_BYTES_MAX)
                same = raw == known.raw()
                fields[key] = field = known if same else _Field(raw, value)
                if not same:
                    operations += _below(_pointer(key), diff_encoded(known.raw(), raw))
            size_bytes += field.size_bytes + len(key) + _PUNCTUATION
        operations += [
            {"op": "remove", "path": _pointer(key)} for key in self._fields if key not in state
        ]
        _check_size(size_bytes)
        # Nothing can be refused any more: from here on it is known.
        for field, items, raw in grown:
            field.grow(items, raw)
        self._fields, self.size_bytes = fields, size_bytes
        return operations


def _check_size(size_bytes: int) -> None:
    if size_bytes > STATE_SIZE_BYTES_MAX:
        raise PayloadTooLarge(
            f"the task's state is {size_bytes} bytes of JSON, the limit is {STATE_SIZE_BYTES_MAX}: "
            "store large data elsewhere and stream a reference to it"
        )


def _pointer(key: str) -> str:
    return f"/{escape_token(key)}"


def _below(path: str, operations: list[Operation]) -> list[Operation]:
    """The operations of one field as operations of the whole state."""
    return [{**operation, "path": f"{path}{operation['path']}"} for operation in operations]
