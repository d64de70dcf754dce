"""A task's state as its readers know it: what has to be streamed is the difference to it.

The difference is taken between *encoded* values, so neither aliasing (a list changed in place) nor
equality that JSON does not share (`1 == True`) can hide a change. A change that is refused leaves
everything as it was.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any, Final, TypeAlias, TypeGuard, cast

import msgspec
from pydantic import BaseModel

from .errors import InvalidInput, PayloadTooLarge
from .patch import diff_encoded, escape_token
from .payload import RECORD_SIZE_BYTES_MAX, check_inside, encode_json

# Beside the state a task's record holds its ids and type, and at the end an exception's message.
RESERVE_BYTES: Final = 64 * 1024
STATE_SIZE_BYTES_MAX: Final = RECORD_SIZE_BYTES_MAX - RESERVE_BYTES
# A field's value lies in an operation in the patch in the record.
LEVELS: Final = 3

# One operation of a patch, its value encoded or plain; and what a list or text can grow by.
Change: TypeAlias = dict[str, object]
Growth: TypeAlias = str | list[Any]

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class KnownState:
    """The last streamed state, field by field; the fields of a model or dataclass are its JSON's."""

    def __init__(self, state: object) -> None:
        self.size_bytes = 0
        self.size_bytes_max = STATE_SIZE_BYTES_MAX
        self._fields: dict[object, _Field] = {}
        self.change_to(state)

    def whole(self) -> msgspec.Raw:
        """The full state as JSON."""
        members = [field.name + field.raw() for field in self._fields.values()]
        return msgspec.Raw(b"{" + b",".join(members) + b"}")

    def limit(self, size_bytes_max: int) -> None:
        """Have another limit from now on. Raises PayloadTooLarge if the state is over it already."""
        self.size_bytes_max = size_bytes_max
        self._check_size(self.size_bytes)

    def change_to(self, state: object) -> list[Change]:
        """The operations that lead from what is known to `state`, which is known from then on.

        Raises:
            InvalidInput: not a dict with string keys, a model or a dataclass; not JSON; too large.
        """
        plain = isinstance(state, dict)
        values = cast("dict[object, Any]", state if plain else _encoded_members(state))
        operations: list[Change] = []
        fields: dict[object, _Field] = {}
        grown: list[tuple[_Field, Growth, bytes]] = []
        size_bytes = 1
        for key, value in values.items():
            known = self._fields.get(key)
            growth = known.growth(value) if known is not None else None
            if known is not None and growth is not None:
                fields[key] = field = known
                if growth:
                    raw = _encode(growth)
                    inside = known.inside(raw)
                    grown.append((known, growth, inside))
                    operations.append(known.append(raw))
                    size_bytes += len(inside)
            else:
                raw = _encode(value) if plain else check_inside(bytes(value), levels=LEVELS)
                if known is None:
                    field = _Field(key, raw, value)
                    operations.append({"op": "add", "path": field.path, "value": msgspec.Raw(raw)})
                elif raw == (before := known.raw()):
                    field = known
                else:
                    field = _Field(key, raw, value)
                    operations += _below(field.path, before, raw)
                fields[key] = field
            size_bytes += field.size_bytes
        for key, field in self._fields.items():
            if key not in values:
                operations.append({"op": "remove", "path": field.path})
        self._check_size(size_bytes)
        # Nothing can be refused any more: from here on it is known.
        for field, growth, inside in grown:
            field.grow(growth, inside)
        self._fields, self.size_bytes = fields, size_bytes
        return operations

    def grow(self, key: str, growth: Growth) -> Change | None:
        """Append text or items to the field `key`, at their own cost, however long it is.

        None, and nothing is changed, if what is known there is no text or list.

        Raises:
            InvalidInput: not JSON; too large.
        """
        field = self._fields.get(key)
        if field is None or not field.can_grow(growth):
            return None
        raw = _encode(growth)
        inside = field.inside(raw)
        self._check_size(self.size_bytes + len(inside))
        field.grow(growth, inside)
        self.size_bytes += len(inside)
        return field.append(raw)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes > self.size_bytes_max:
            raise PayloadTooLarge(
                f"the task's state would be {size_bytes} bytes of JSON, the limit is "
                f"{self.size_bytes_max}: store large data elsewhere and stream a reference to it"
            )


class _Field:
    """One top-level field, encoded in parts, so that it can grow cheaply."""

    __slots__ = ("_close", "_parts", "_strings", "_texts", "name", "path", "size_bytes")

    def __init__(self, key: object, raw: bytes, value: object) -> None:
        if not isinstance(key, str):
            raise InvalidInput(f"the keys of a task's state are strings, not {key!r}")
        self.name = encode_json(key) + b":"
        self.path = f"/{escape_token(key)}"
        # With the comma (or brace) behind it.
        self.size_bytes = len(self.name) + len(raw) + 1
        self._parts, self._close = [raw[:-1]], raw[-1:]
        # A text, in parts, or a copy of a list that holds only text. Text cannot change, so looking
        # whether such a value is the same or only grew is exact and needs no new encoding of it. (An
        # equal list of numbers may be another one in JSON: 1 == True == 1.0.)
        self._texts: list[str] | None = [value] if type(value) is str else None
        self._strings: list[str] | None = None
        if _is_list(value) and all(type(item) is str for item in value):
            self._strings = value.copy()

    def raw(self) -> bytes:
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0] + self._close

    def growth(self, value: object) -> Growth | None:
        """What `value` has behind what is known, if it is that (nothing), or that and more; else None."""
        if self._texts is not None and type(value) is str:
            if len(self._texts) > 1:
                self._texts = ["".join(self._texts)]
            known = self._texts[0]
            return value[len(known) :] if value.startswith(known) else None
        if self._strings is not None and _is_list(value):
            count = len(self._strings)
            if value[:count] == self._strings:
                return value[count:]
        return None

    def can_grow(self, growth: Growth) -> bool:
        return self._close == (b'"' if isinstance(growth, str) else b"]")

    def inside(self, raw: bytes) -> bytes:
        """What comes before our closing quote or bracket to append the text or items of `raw`."""
        empty = len(self._parts) == 1 and self._parts[0] == b"["
        return raw[1:-1] if self._close == b'"' or empty else b"," + raw[1:-1]

    def append(self, raw: bytes) -> Change:
        return {"op": "append", "path": self.path, "value": msgspec.Raw(raw)}

    def grow(self, growth: Growth, inside: bytes) -> None:
        self._parts.append(inside)
        self.size_bytes += len(inside)
        if isinstance(growth, str):
            if self._texts is not None:
                self._texts.append(growth)
        elif self._strings is not None and all(type(item) is str for item in growth):
            self._strings.extend(growth)
        else:
            self._strings = None


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return type(value) is list


def _encode(value: object) -> bytes:
    """A field's value, or what it grows by."""
    return check_inside(encode_json(value, size_bytes_max=sys.maxsize), levels=LEVELS)


def _encoded_members(state: object) -> dict[str, msgspec.Raw]:
    """The fields of a model or dataclass, encoded."""
    if not isinstance(state, BaseModel) and (
        not dataclasses.is_dataclass(state) or isinstance(state, type)
    ):
        raise InvalidInput(
            "a task's state is a dict, a pydantic model or a dataclass, not "
            f"{state!r:.100} ({type(state).__name__})"
        )
    raw = encode_json(state, size_bytes_max=sys.maxsize)
    if not raw.startswith(b"{"):
        raise InvalidInput(f"the task's state {type(state).__name__} is no JSON object")
    return _members(raw)


def _below(path: str, old: bytes, new: bytes) -> list[Change]:
    """What changed in one field, as operations of the whole state."""
    return [
        {**operation, "path": f"{path}{operation['path']}"} for operation in diff_encoded(old, new)
    ]
