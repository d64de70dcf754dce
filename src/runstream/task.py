"""Tasks: a named piece of state that streams while it changes.

`task.started` carries the full state, `task.progress` what changed (JSON Patch plus `append`),
`task.completed` the full final state. A `task.snapshot` takes the place of a delta often enough that no
reader needs the whole history, and rarely enough that all snapshots together cost no more than the deltas.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import secrets
from collections.abc import Awaitable, Generator, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar, cast, overload

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BaseModel

from .context import Outlet, Scope, Slot, current_scope
from .errors import InvalidInput
from .events import check_name
from .known_state import RESERVE_BYTES, Change, KnownState
from .payload import exception_payload
from .publishing import present_scope
from .record import Draft, now_us

# Deltas smaller than this in sum are not worth a snapshot, however small the state is.
SNAPSHOT_AFTER_BYTES_MIN: Final = 4096
# A character of an exception's message takes at most 6 bytes of JSON, and the ids need room as well.
_RESERVE_BYTES_PER_CHARACTER: Final = 8

S = TypeVar("S")

logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class Task(Generic[S]):
    """A named state that readers follow: `async with Task("progress", state={"done": 0}) as task:`.

    `type` is the topic that readers ask for. `state` is a dict with string keys, a pydantic model or a
    dataclass; change it through `update_state`, `set_state` and `append`. The block's end is the task's
    end: completed, failed with the exception, or cancelled. Nothing here blocks, `with` is as good as
    `async with`. Use one task from one thread at a time. Outside any run it works, and streams nothing.

    Raises:
        InvalidInput: a name or the state is not acceptable.
    """

    @overload
    def __init__(
        self: Task[dict[str, Any]],
        type: str,
        state: dict[str, Any] | None = None,
        *,
        id: str | None = None,
        correlation_id: str | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        type: str,
        state: S,
        *,
        id: str | None = None,
        correlation_id: str | None = None,
    ) -> None: ...
    def __init__(
        self,
        type: str,
        state: object = None,
        *,
        id: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        self.type = check_name(type, "task type")
        self.id = secrets.token_hex(8) if id is None else check_name(id, "task id")
        self.correlation_id = (
            None if correlation_id is None else check_name(correlation_id, "correlation_id")
        )
        self._state: Any = _own({} if state is None else state)
        # What `append` has made of fields since the state was last looked at: items, or pieces of text.
        self._growing: dict[str, list[Any]] = {}
        self._known = KnownState(self._state)
        self._scope: Scope | None = None
        self._room = _Room(None)
        self._token: Token[Scope | None] | None = None
        self._pid = os.getpid()
        self._entered = self._ended = False
        self._version = 0
        self._delta_bytes = 0
        self._slot: Slot | None = None

    @property
    def state(self) -> S:
        """The state as it is now. No method changes what this returned before: look again for news.

        Read-only by contract: what is changed in it in place is streamed with the next update at best.
        """
        if self._growing:
            grown = {
                key: "".join(parts) if isinstance(self._state.get(key), str) else parts
                for key, parts in self._growing.items()
            }
            self._state, self._growing = {**self._state, **grown}, {}
        state: S = self._state
        return state

    def set_state(self, state: S) -> Awaitable[None]:
        """Replace the state. Applied at the call; awaiting the result waits for room in the queue.

        A state that is refused changes nothing. Cancelling the wait only stops the waiting.

        Raises:
            InvalidInput: the state is not JSON, too large, or not a dict, model or dataclass; or the task
                has ended.
            RunEnded: the run has ended: nothing is streamed any more.
        """
        self._check_usable()
        operations = self._known.change_to(state)
        self._state, self._growing = _own(state), {}
        return self._stream(operations)

    def update_state(self, updates: Mapping[str, Any]) -> Awaitable[None]:
        """Merge `updates` into the top level of the state; a model validates them. As `set_state`."""
        if not isinstance(updates, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] # untyped callers
            raise InvalidInput(f"updates are a dict of fields, not {updates!r:.100}")
        return self.set_state(_merged(self.state, updates))

    def append(self, key: str, value: Any) -> Awaitable[None]:
        """Append an item to the list, or text to the string, in the state's field `key`.

        Costs the same however long the field of a dict has become. Otherwise as `set_state`.

        Raises:
            InvalidInput: also if there is no such field, or it is neither a list nor a string.
        """
        self._check_usable()
        field = _field(self._state, key)
        if not isinstance(field, (str, list)):
            raise InvalidInput(f"the state has no list or text in a field {key!r}")
        if isinstance(field, str) and not isinstance(value, str):
            raise InvalidInput(f"the field {key!r} is text: append text to it, not {value!r:.100}")
        growth: Any = value if isinstance(field, str) else [value]
        if not growth:
            return self._room  # empty text
        operation = self._known.grow(key, growth) if isinstance(self._state, dict) else None
        if operation is None:
            # A model has to validate it; a field that was changed past the methods, to be compared.
            return self.update_state({key: _field(self.state, key) + growth})
        if key not in self._growing:
            # Not the list itself: it may be the caller's, and was in states that others have seen.
            self._growing[key] = [field] if isinstance(field, str) else [*field]
        self._growing[key].append(value)
        return self._stream([operation])

    def __enter__(self) -> Self:
        if self._entered:
            raise InvalidInput(f"the task {self.type!r} was entered before: make a new one")
        scope = present_scope()
        if scope is None:
            logger.debug("the task %r is outside any run and streams nothing", self.type)
        else:
            size_bytes_max = scope.outlet.size_bytes_max
            self._known.limit(size_bytes_max - _reserve_bytes(scope.outlet))
            self._scope, self._room = scope, _Room(scope.outlet)
            self._put_full("task.started")
            self._token = current_scope.set(dataclasses.replace(scope, task_id=self.id))
        self._entered = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        if self._token is not None:
            # A generator that is abandoned inside its block is closed from a context of its own; there
            # is nothing to restore there, and no reason to hide how the block ended.
            with contextlib.suppress(ValueError):
                current_scope.reset(self._token)
            self._token = None
        if os.getpid() != self._pid:
            return  # a forked child leaves the block too: the task goes on in the parent
        try:
            self._put_end(error)
        except Exception as refusal:
            # An error on its way out must not be replaced by "the run has ended".
            if error is None:
                raise
            logger.warning("the end of task %s could not be recorded: %s", self.id, refusal)

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, trace)

    def _put_end(self, error: BaseException | None) -> None:
        refusal: InvalidInput | None = None
        try:
            # The state as it is now: also what was changed past the methods.
            self._known.change_to(self.state)
        except InvalidInput as unacceptable:
            refusal = unacceptable  # readers keep the last state that could be streamed
        self._version += 1
        match error or refusal:
            case None:
                self._put_full("task.completed")
            case asyncio.CancelledError() | KeyboardInterrupt() | GeneratorExit() as reason:
                self._put_full("task.cancelled", reason)
            case reason:
                self._put_full("task.failed", reason)
        if refusal is not None and error is None:
            raise refusal

    def _stream(self, operations: list[Change]) -> _Room:
        """Stream what changed: as a delta, or as a snapshot where that is due or there is no room."""
        scope = self._scope
        if not operations or scope is None:
            return self._room
        self._version += 1
        if self._slot is not None:
            if self._slot.replace(self._snapshot()):
                return self._room
            self._slot = None
        delta = _encode(_Delta(self.id, self._version, operations))
        self._delta_bytes += len(delta)
        due = self._delta_bytes >= max(self._known.size_bytes, SNAPSHOT_AFTER_BYTES_MIN)
        draft = self._snapshot() if due else self._draft(scope, "task.progress", delta)
        if not scope.outlet.offer(draft):
            self._slot = scope.outlet.put_latest(
                draft
            )  # if more changes before it is sent: a snapshot
        return self._room

    def _snapshot(self) -> Draft:
        self._delta_bytes = 0
        assert self._scope is not None  # noqa: S101 - its only caller has looked
        return self._draft(self._scope, "task.snapshot", self._full(self._scope))

    def _put_full(self, kind: str, error: BaseException | None = None) -> None:
        scope = self._scope
        if scope is not None:
            scope.outlet.put_always(self._draft(scope, kind, self._full(scope, error)))

    def _full(self, scope: Scope, error: BaseException | None = None) -> bytes:
        said: dict[str, str] | UnsetType = UNSET
        if error is not None:
            said = exception_payload(error)
            length = _reserve_bytes(scope.outlet) // _RESERVE_BYTES_PER_CHARACTER
            said["message"] = said["message"][:length]
        state = self._known.whole()
        return _encode(
            _Full(self.id, self.type, self._version, state, scope.task_id or UNSET, said)
        )

    def _draft(self, scope: Scope, kind: str, raw: bytes) -> Draft:
        return Draft(
            now_us(),
            scope.run_id,
            kind,
            msgspec.Raw(raw),
            self.type,
            scope.step,
            scope.step_run_id,
            scope.attempt,
            self.correlation_id,
        )

    def _check_usable(self) -> None:
        if self._ended:
            raise InvalidInput(f"the task {self.type!r} has ended: its state is final")
        if os.getpid() != self._pid:
            raise InvalidInput(f"the task {self.type!r} belongs to the process that made it")


# --- what the records hold -----------------------------------------------------------------------


class _Full(msgspec.Struct, omit_defaults=True):
    """`task.started`, `task.snapshot`, `task.completed`, `task.failed`, `task.cancelled`."""

    task_id: str
    type: str
    version: int
    state: msgspec.Raw
    parent_task_id: str | UnsetType = UNSET
    error: dict[str, str] | UnsetType = UNSET


class _Delta(msgspec.Struct):
    """`task.progress`."""

    task_id: str
    version: int
    patch: list[Change]


class _Room:
    """Awaiting this waits for room in the queue; not awaiting it is fine."""

    __slots__ = ("_outlet",)

    def __init__(self, outlet: Outlet | None) -> None:
        self._outlet = outlet

    def __await__(self) -> Generator[Any, None, None]:
        if self._outlet is not None:
            yield from self._outlet.wait_room().__await__()


def _reserve_bytes(outlet: Outlet) -> int:
    """What a record keeps free for all that is not state; no more than half of a small one."""
    return min(RESERVE_BYTES, outlet.size_bytes_max // 2)


def _as_dict(state: object) -> dict[str, Any] | None:
    return cast("dict[str, Any]", state) if isinstance(state, dict) else None


def _field(state: object, key: str) -> Any:
    fields = _as_dict(state)
    return getattr(state, key, None) if fields is None else fields.get(key)


def _own(state: object) -> object:
    """A dict is copied, so that its caller's later changes don't become the state's unnoticed."""
    fields = _as_dict(state)
    return state if fields is None else {**fields}


def _merged(state: Any, updates: Mapping[str, Any]) -> Any:
    fields = _as_dict(state)
    if fields is not None:
        return {**fields, **updates}
    if isinstance(state, BaseModel):
        extra = state.model_config.get("extra") == "allow"
        known = {*updates} if extra else {*type(state).model_fields}
    else:
        known = {field.name for field in dataclasses.fields(state)}
    unknown = [key for key in updates if key not in known]
    if unknown:
        raise InvalidInput(f"the state {type(state).__name__} has no field {unknown[0]!r:.100}")
    if not isinstance(state, BaseModel):
        return dataclasses.replace(state, **updates)
    # Validated as a whole, because fields may depend on one another; by name, as the caller wrote it.
    try:
        return type(state).model_validate({**dict(state), **updates}, by_name=True)
    except ValueError as error:
        raise InvalidInput(
            f"the update does not fit the state {type(state).__name__}: {error}"
        ) from error
