"""Tasks: a named piece of state that streams while it changes.

`task.started` carries the full state, `task.progress` what changed (JSON Patch plus `append`),
`task.completed` the full final state. A `task.snapshot` takes the place of a delta often enough that no
reader needs the whole history, and rarely enough that it costs no more than the deltas did.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import secrets
from collections.abc import Awaitable, Generator, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar

import msgspec
from pydantic import BaseModel

from .context import Scope, Slot, current_scope
from .errors import InvalidInput, RunstreamError
from .events import check_name
from .known_state import KnownState
from .patch import Operation
from .payload import exception_payload
from .record import Draft, now_us

# Deltas smaller than this in sum are not worth a snapshot, however small the state is.
SNAPSHOT_AFTER_BYTES_MIN: Final = 4096

S = TypeVar("S")

logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


class Task(Generic[S]):
    """A named state that readers follow: `async with Task("progress", state={"done": 0}) as task:`.

    `type` is the topic that readers ask for. `state` is a dict with string keys, a pydantic model or a
    dataclass; it is read-only by contract: change it through `update_state`, `set_state` and `append`.
    The block's end is the task's end: completed, failed with the exception, or cancelled. Use one task
    from one thread at a time. Outside any run it works, and streams nothing.

    Raises:
        InvalidInput: a name or the state is not acceptable.
    """

    def __init__(
        self,
        type: str,
        state: S | None = None,
        *,
        id: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        self.type = check_name(type, "task type")
        self.id = check_name(id, "task id") if id is not None else secrets.token_hex(8)
        self.correlation_id = (
            None if correlation_id is None else check_name(correlation_id, "correlation_id")
        )
        self._state: Any = dict(state or {}) if isinstance(state, dict | None) else state
        self._known = KnownState(self._state)
        self._scope: Scope | None = None
        self._token: Token[Scope | None] | None = None
        self._version = 0
        self._delta_bytes = 0
        self._owned: set[str] = set()
        self._slot: Slot | None = None
        self._ended = False

    @property
    def state(self) -> S:
        """The live state. Read-only by contract; a change made past the methods is noticed late."""
        return self._state  # type: ignore[no-any-return]

    def set_state(self, state: S) -> Awaitable[None]:
        """Replace the state. Applied at the call; awaiting the result waits for room in the queue.

        Cancelling that only stops the waiting.

        Raises:
            InvalidInput: the state is not JSON, too large, or not a dict, model or dataclass.
        """
        self._check_running()
        operations = self._known.change_to(state)
        self._state = state
        self._owned.clear()  # the lists in it may be the caller's
        self._send_change(operations)
        return _Room(self._scope)

    def update_state(self, updates: Mapping[str, Any]) -> Awaitable[None]:
        """Merge `updates` into the top level of the state. Otherwise as `set_state`."""
        state = self._state
        merged: Any
        if isinstance(state, dict):
            merged = {**state, **updates}
        elif isinstance(state, BaseModel):
            merged = _updated_model(state, updates)
        else:
            merged = dataclasses.replace(state, **updates)
        return self.set_state(merged)

    def append(self, key: str, value: Any) -> Awaitable[None]:
        """Append an item to the list, or text to the string, in the state's field `key`.

        Costs the same however long the field has become. Applied at the call, like `set_state`.

        Raises:
            InvalidInput: no such field, or it is neither a list nor a string.
        """
        self._check_running()
        state = self._state
        field = state.get(key) if isinstance(state, dict) else getattr(state, key, None)
        if not isinstance(field, (str, list)):
            raise InvalidInput(f"the state has no list or text in a field {key!r}")
        if isinstance(field, str) and not isinstance(value, str):
            raise InvalidInput(f"the field {key!r} is text: append text to it, not {value!r}")
        if not isinstance(state, dict):
            return self.update_state({key: field + (value if isinstance(field, str) else [value])})
        operation = self._known.grow(key, value if isinstance(field, str) else [value])
        if isinstance(field, str):
            state[key] = field + value
        else:
            if key not in self._owned:
                # The list may be the caller's own, or one that an earlier state still shows.
                field = state[key] = list(field)
                self._owned.add(key)
            field.append(value)
        self._send_change([operation])
        return _Room(self._scope)

    def __enter__(self) -> Self:
        outer = current_scope.get()
        if outer is None:
            logger.debug("the task %r is outside any run and streams nothing", self.type)
            return self
        self._scope = outer
        started = _Started(self.id, self.type, self._known.whole(), outer.task_id)
        self._put_always("task.started", started)
        self._token = current_scope.set(dataclasses.replace(outer, task_id=self.id))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended = True
        if self._token is None:
            return
        current_scope.reset(self._token)
        self._token = None
        try:
            self._put_end(error)
        except RunstreamError as refusal:
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
        # The state as it is now: also what was changed past the methods.
        self._known.change_to(self._state)
        end = _Ended(self.id, self.type, self._version + 1, self._known.whole())
        match error:
            case None:
                self._put_always("task.completed", end)
            case asyncio.CancelledError() | KeyboardInterrupt() | GeneratorExit():
                end.reason = type(error).__name__
                self._put_always("task.cancelled", end)
            case _:
                end.error = exception_payload(error)
                self._put_always("task.failed", end)

    def _send_change(self, operations: list[Operation]) -> None:
        """Stream what changed: as a delta, or as a snapshot where that is due or there is no room."""
        scope = self._scope
        if not operations or scope is None:
            return
        self._version += 1
        delta = _encode(_Delta(self.id, self._version, operations))
        self._delta_bytes += len(delta)
        due = self._delta_bytes >= max(self._known.size_bytes, SNAPSHOT_AFTER_BYTES_MIN)
        if due:
            self._delta_bytes = 0
            draft = self._snapshot()
        else:
            draft = self._draft("task.progress", delta)
        if self._slot is not None and self._slot.replace(draft if due else self._snapshot()):
            return
        self._slot = None
        if not scope.outlet.offer(draft):
            self._slot = scope.outlet.put_latest(draft if due else self._snapshot())

    def _snapshot(self) -> Draft:
        snapshot = _Snapshot(self.id, self._version, self._known.whole())
        return self._draft("task.snapshot", _encode(snapshot))

    def _draft(self, kind: str, raw: bytes) -> Draft:
        scope = self._scope
        assert scope is not None  # noqa: S101 - every caller has looked
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

    def _put_always(self, kind: str, data: msgspec.Struct) -> None:
        if self._scope is not None:
            self._scope.outlet.put_always(self._draft(kind, _encode(data)))

    def _check_running(self) -> None:
        if self._ended:
            raise InvalidInput(f"the task {self.type!r} has ended: its state is final")


# --- what the records hold -----------------------------------------------------------------------


class _Started(msgspec.Struct, omit_defaults=True):
    task_id: str
    type: str
    state: msgspec.Raw
    parent_task_id: str | None = None
    version: int = msgspec.field(default=0)


class _Delta(msgspec.Struct):
    task_id: str
    version: int
    patch: list[Operation]


class _Snapshot(msgspec.Struct):
    task_id: str
    version: int
    state: msgspec.Raw


class _Ended(msgspec.Struct, omit_defaults=True):
    task_id: str
    type: str
    version: int
    state: msgspec.Raw
    error: dict[str, str] | None = None
    reason: str | None = None


def _updated_model(state: BaseModel, updates: Mapping[str, Any]) -> BaseModel:
    """A validated copy: an update must not smuggle in what the model would refuse."""
    fields = type(state).model_fields
    unknown = [key for key in updates if key not in fields]
    if unknown and type(state).model_config.get("extra") != "allow":
        raise InvalidInput(f"{type(state).__name__} has no field {unknown[0]!r}")
    values = {key: getattr(state, key) for key in state.model_fields_set} | dict(updates)
    return type(state).model_validate(
        {fields[key].alias or key if key in fields else key: value for key, value in values.items()}
    )


class _Room:
    """Awaiting this waits for room in the queue; not awaiting it is fine."""

    __slots__ = ("_scope",)

    def __init__(self, scope: Scope | None) -> None:
        self._scope = scope

    def __await__(self) -> Generator[Any, None, None]:
        if self._scope is not None:
            yield from self._scope.outlet.wait_room().__await__()
