"""JSON Patch for task states: what changed (`diff`), and the fold that replays it (`apply`).

* **Exact.** `apply(old, diff(old, new))` is `new`, to the last byte of its JSON up to the order of
  object keys: `True` is not `1`, `1` is not `1.0`, `0.0` is not `-0.0`.
* **Small.** A list or string that grows costs its new part, however long it already is; and no
  patch is larger than replacing the value it changes.
* **Linear.** No step compares everything with everything, and deep nesting cannot overflow.
* **Pure.** `apply` never changes what it is given. Its result shares all unchanged parts with the
  input and with the patch's values, so keeping every state is cheap; treat them as read-only.
* **All or nothing.** A patch with one invalid operation raises `InvalidPatch` and has no effect.

`apply` knows all of RFC 6902 with RFC 6901 pointers, and one operation more: `append`, whose value
is the text to put at the end of a string, or the array of items to put at the end of an array.
`diff` writes `add`, `remove`, `replace` and `append` only. NaN and infinity are not JSON values.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import compress, count
from math import inf
from operator import eq, ne
from typing import Any, TypeAlias, cast

import msgspec

from .errors import InvalidInput, InvalidPayload

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
Operation: TypeAlias = dict[str, Json]
_Container: TypeAlias = dict[str, Json] | list[Json]
_Members: TypeAlias = dict[str, msgspec.Raw]
_Items: TypeAlias = list[msgspec.Raw]

# Containers nested deeper than this are replaced as a whole when they change: it bounds both the
# recursion and the number of times that a byte is scanned.
DIFF_DEPTH_MAX = 64


class InvalidPatch(InvalidInput):
    """An operation cannot be applied; `position` (from 0), `op` and `path` say which one."""

    def __init__(self, reason: str, position: int = -1, op: str = "", path: str = "") -> None:
        where = f"operation {position} ({op:.20} {path!r:.200}): " if position >= 0 else ""
        super().__init__(where + reason)
        self.reason, self.position, self.op, self.path = reason, position, op, path


def diff(old: Json, new: Json) -> list[Operation]:
    """Return the operations that turn `old` into `new`; none if they are the same JSON.

    Raises `InvalidPayload` if either is not a JSON value or is nested too deeply to be encoded.
    """
    return diff_encoded(_encode(old), _encode(new))


def diff_encoded(old: bytes, new: bytes) -> list[Operation]:
    """Do as `diff` does, on two states encoded by msgspec (compact: no space between tokens).

    The cheaper form for a caller that holds them encoded: equal parts are never decoded.
    """
    if old == new:
        return []
    changes = _Changes()
    try:
        changes.compare("", old, new, depth=0)
    except RecursionError:  # nested almost as deeply as the interpreter allows
        return [{"op": "replace", "path": "", "value": msgspec.json.decode(new)}]
    return changes.operations()


def apply(document: Json, operations: Sequence[Json]) -> Json:
    """Return `document` as the operations, applied in order, make it.

    Raises `InvalidPatch` if any of them cannot be applied. `test` compares as RFC 6902 says, so
    there `1` equals `1.0` (and still not `true`).
    """
    if not isinstance(operations, (list, tuple)):
        raise InvalidPatch("a patch must be an array of operations")
    draft = _Draft(document)
    for position, operation in enumerate(operations):
        try:
            _apply_one(draft, operation)
        except InvalidPatch as fault:
            members = operation if isinstance(operation, dict) else {}
            named = (members.get("op"), members.get("path"))
            op, path = (name if isinstance(name, str) else "" for name in named)
            raise InvalidPatch(fault.reason, position, op, path) from None
    return draft.find([""])


# --- pointers (RFC 6901) -------------------------------------------------------------------------

_NO_CONTAINER = "the path leads into a value that is neither object nor array"
# The longest index is far beyond any list in memory and far below what `int` refuses to parse.
_INDEX = re.compile(r"0|[1-9][0-9]{0,17}")
_BAD_ESCAPE = re.compile(r"~(?![01])")


def parse_pointer(pointer: str) -> list[str]:
    """Return a pointer's tokens, unescaped; `""` (the whole document) has none."""
    if (pointer and not pointer.startswith("/")) or _BAD_ESCAPE.search(pointer):
        raise InvalidPatch(f"{pointer!r:.200} is not a JSON pointer")
    # `~1` goes first: `~01` stands for the text `~1`, not for a slash.
    return [token.replace("~1", "/").replace("~0", "~") for token in pointer.split("/")[1:]]


def escape_token(key: str) -> str:
    """Return an object key as it is written in a pointer."""
    return key.replace("~", "~0").replace("/", "~1")


# --- diff ----------------------------------------------------------------------------------------

# These decode one level only: members and items stay slices of the encoded text. Comparing those
# compares memory, is exact where `==` on Python values is not, and their lengths are the sizes
# that decide between patching and replacing.
_members = msgspec.json.Decoder(_Members).decode
_items = msgspec.json.Decoder(_Items).decode


def _encode(value: Json) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (RecursionError, TypeError, ValueError) as error:
        raise InvalidPayload(f"this is not a JSON value that can be stored: {error}") from error


class _Changes:
    """The operations found so far, with their values still encoded, and their size as JSON."""

    __slots__ = ("_found", "_size")

    def __init__(self) -> None:
        self._found: list[tuple[str, str, bytes]] = []  # name, path, value (empty: it has none)
        self._size = 0

    def operations(self) -> list[Operation]:
        return [
            {"op": name, "path": path} | ({"value": msgspec.json.decode(value)} if value else {})
            for name, path, value in self._found
        ]

    def write(self, name: str, path: str, value: bytes = b"") -> None:
        self._found.append((name, path, value))
        self._size += _operation_size(name, path, value)

    def compare(self, path: str, old: bytes, new: bytes, depth: int) -> None:
        """Write what turns `old` into `new`, which differ (if only in the order of keys)."""
        kind = new[:1] if new[:1] == old[:1] else b""
        if kind == b'"' and new.startswith(old[:-1]):
            self.write("append", path, b'"' + new[len(old) - 1 :])
        elif kind == b"[" and (added := _added_items(old, new)):
            self.write("append", path, added)
        elif kind in (b"{", b"[") and depth < DIFF_DEPTH_MAX:
            found, size = len(self._found), self._size
            size_max = size + _operation_size("replace", path, new)
            if kind == b"{":
                self._compare_dicts(path, _members(old), _members(new), depth)
            else:
                self._compare_lists(path, _items(old), _items(new), depth, size_max)
            if self._size > size_max:
                del self._found[found:]
                self._size = size
                self.write("replace", path, new)
        else:
            self.write("replace", path, new)

    def _compare_dicts(self, path: str, old: _Members, new: _Members, depth: int) -> None:
        for key in old:
            if key not in new:
                self.write("remove", f"{path}/{escape_token(key)}")
        for key, value in new.items():
            before = old.get(key)
            if before is None:
                self.write("add", f"{path}/{escape_token(key)}", bytes(value))
            elif before != value:
                child = f"{path}/{escape_token(key)}"
                self.compare(child, bytes(before), bytes(value), depth + 1)

    def _compare_lists(self, path: str, old: _Items, new: _Items, depth: int, limit: int) -> None:
        """Walk both lists once; beyond the size `limit` give up, the caller will replace the list.

        Where they differ, an item that comes again later in the other list tells that something
        was removed or inserted here (of two such items the nearer one stays); else the item has
        changed in its place. A wrong guess costs size, never exactness.
        """
        start = _same_at_start(old, new)
        tail = _same_at_start(old[start:][::-1], new[start:][::-1])
        was = [bytes(item) for item in old[start : len(old) - tail]]
        now = [bytes(item) for item in new[start : len(new) - tail]]
        in_place = len(was) == len(now) and 2 * sum(map(eq, was, now)) >= len(now)
        last_was = {} if in_place else {item: index for index, item in enumerate(was)}
        last_now = {} if in_place else {item: index for index, item in enumerate(now)}
        at_was = at_now = 0
        while at_was < len(was) and at_now < len(now) and self._size <= limit:
            before, value = was[at_was], now[at_now]
            if before != value:
                place = f"{path}/{start + at_now}"  # all before it is already as in `new`
                before_again = _distance(last_now, before, at_now)
                value_again = _distance(last_was, value, at_was)
                if before_again > value_again:
                    self.write("remove", place)
                    at_was += 1
                    continue
                if before_again < value_again:
                    self.write("add", place, value)
                    at_now += 1
                    continue
                self.compare(place, before, value, depth + 1)
            at_was += 1
            at_now += 1
        for _ in was[at_was:]:
            self.write("remove", f"{path}/{start + at_now}")
        if at_now < len(now) and not tail:
            self.write("append", path, b"[" + b",".join(now[at_now:]) + b"]")
        else:
            for index in range(at_now, len(now)):
                self.write("add", f"{path}/{start + index}", now[index])


def _operation_size(name: str, path: str, value: bytes) -> int:
    """Return an operation's size in a patch, as JSON, with its comma."""
    value_member = len(',"value":') + len(value) if value else 0
    return len('{"op":"","path":},') + len(name) + len(msgspec.json.encode(path)) + value_member


def _added_items(old: bytes, new: bytes) -> bytes:
    """Return the array of what was added at the end; empty if `new` doesn't continue `old`."""
    if old == b"[]":
        return new
    # All of `old` but its bracket ends exactly after an item, so a comma must follow it.
    end = len(old) - 1
    return b"[" + new[end + 1 :] if new.startswith(b",", end) and new.startswith(old[:-1]) else b""


def _same_at_start(old: _Items, new: _Items) -> int:
    return next(compress(count(), map(ne, old, new)), min(len(old), len(new)))


def _distance(last: dict[bytes, int], item: bytes, here: int) -> float:
    """Return how far after `here` an item comes last; infinity if it doesn't come again."""
    index = last.get(item, -1)
    return index - here if index >= here else inf


# --- apply ---------------------------------------------------------------------------------------


class _Draft:
    """A document while operations change it.

    A container is copied before its first change and then owned, so it is copied once however many
    operations change it. What is owned has an owned parent. Places are pointers split at their
    slashes, so the first token is always "": the document's own place in the container on top.
    """

    __slots__ = ("_owned", "_top")

    def __init__(self, document: Json) -> None:
        self._top: _Container = {"": document}
        # By identity; holding the containers keeps their identities from being given away again.
        self._owned: dict[int, _Container] = {}

    def find(self, place: list[str]) -> Json:
        node: Json = self._top
        for token in place:
            node = cast("_Container", node)[_slot(node, token)]
        return node

    def add(self, place: list[str], value: Json) -> None:
        parent, last = self._own(place[:-1]), place[-1]
        if isinstance(parent, dict):
            parent[last] = value
        else:
            # One past the end is a valid place to insert at, and "-" is its other name.
            parent.insert(len(parent) if last == "-" else _index(last, len(parent) + 1), value)

    def replace(self, place: list[str], value: Json) -> None:
        parent = self._own(place[:-1])
        parent[_slot(parent, place[-1])] = value

    def remove(self, place: list[str]) -> Json:
        if len(place) == 1:
            raise InvalidPatch("the whole document can be replaced, not removed")
        parent = self._own(place[:-1])
        return parent.pop(_slot(parent, place[-1]))

    def move(self, source: list[str], target: list[str]) -> None:
        if target == source:
            self.find(source)
        elif target[: len(source)] == source:
            raise InvalidPatch("a value cannot be moved into itself")
        else:
            self.add(target, self.remove(source))

    def copy(self, source: list[str], target: list[str]) -> None:
        value = self.find(source)
        # From now on it stands in two places: the next change to either must copy it again.
        pending = [value]
        while pending:
            owned = self._owned.pop(id(pending.pop()), None)
            if owned is not None:
                pending.extend(owned.values() if isinstance(owned, dict) else owned)
        self.add(target, value)

    def append(self, place: list[str], value: Json) -> None:
        grown = self.find(place)
        if isinstance(grown, str) and isinstance(value, str):
            self.replace(place, grown + value)
        elif isinstance(grown, list) and isinstance(value, list):
            cast("list[Json]", self._own(place)).extend(value)
        else:
            raise InvalidPatch("append takes text for a string, or an array of items for an array")

    def _own(self, place: list[str]) -> _Container:
        """Return the container there, after copying what isn't owned yet of it and its parents."""
        node = self._top
        for token in place:
            slot = _slot(node, token)
            child: Json = node[slot]
            if not isinstance(child, (dict, list)):
                raise InvalidPatch(_NO_CONTAINER)
            if id(child) not in self._owned:
                child = node[slot] = child.copy()
                self._owned[id(child)] = child
            node = child
        return node


def _apply_one(draft: _Draft, operation: Json) -> None:
    if not isinstance(operation, dict):
        raise InvalidPatch("an operation must be an object")
    place = _place(operation, "path")
    match operation.get("op"):
        case "add":
            draft.add(place, _value(operation))
        case "remove":
            draft.remove(place)
        case "replace":
            draft.replace(place, _value(operation))
        case "append":
            draft.append(place, _value(operation))
        case "move":
            draft.move(_place(operation, "from"), place)
        case "copy":
            draft.copy(_place(operation, "from"), place)
        case "test":
            if not _equal(draft.find(place), _value(operation)):
                raise InvalidPatch("the value there is not the expected one")
        case _:
            raise InvalidPatch("there is no such operation")


def _place(operation: Operation, name: str) -> list[str]:
    pointer = operation.get(name)
    if not isinstance(pointer, str):
        raise InvalidPatch(f"the operation needs a {name!r} that is a string")
    return ["", *parse_pointer(pointer)]


def _value(operation: Operation) -> Json:
    if "value" not in operation:  # null is a value
        raise InvalidPatch("the operation needs a 'value'")
    return operation["value"]


def _slot(node: Json, token: str) -> Any:
    """Return the key or index of the member that a pointer's token names; it must exist."""
    if isinstance(node, list):
        return _index(token, len(node))
    if not isinstance(node, dict):
        raise InvalidPatch(_NO_CONTAINER)
    if token not in node:
        raise InvalidPatch(f"there is no member {token!r:.200}")
    return token


def _index(token: str, end: int) -> int:
    if not _INDEX.fullmatch(token) or int(token) >= end:
        raise InvalidPatch(f"{token!r:.200} is not an array index below {end}")
    return int(token)


def _equal(left: Json, right: Json) -> bool:
    pairs = [(left, right)]
    while pairs:
        one, other = pairs.pop()
        if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
            pairs.extend((value, other[key]) for key, value in one.items())
        elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
            pairs.extend(zip(one, other, strict=True))
        elif isinstance(one, (dict, list, bool)) or isinstance(other, bool):
            if one is not other:
                return False
        elif one != other:
            return False
    return True
