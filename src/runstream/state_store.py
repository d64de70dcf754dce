"""A run's own state, shared by its steps: `ctx.store`.

Every change is atomic: one editor at a time, whichever task or thread it is in, and an edit that raises
changes nothing (in a state that can be copied).
"""

from __future__ import annotations

import asyncio
import copy
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, MutableMapping
from concurrent.futures import Future
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from types import TracebackType
from typing import Any, Final, Generic, cast

from typing_extensions import TypeVar

from .errors import InvalidInput

S = TypeVar("S", default=Any)

_MISSING: Final[Any] = object()


class FreeState(dict[str, Any]):
    """The state of a workflow that doesn't declare one: keys, which are attributes, too."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the state has no {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class StateStore(Generic[S]):
    """The state of one run. The methods are for async steps; a plain step uses `with edit_state()`."""

    def __init__(self, make: Callable[[], S]) -> None:
        self._make = make
        self._state = make()
        self._lock = EditLock()

    async def get(self, path: str, default: Any = _MISSING) -> Any:
        """The value at `path` (`"user.name"` looks inside). Raises InvalidInput if it isn't there."""
        value: Any = self._state
        for part in path.split("."):
            value = _look(value, part)
            if value is _MISSING:
                if default is _MISSING:
                    raise InvalidInput(f"the state has no {path!r}")
                return default
        return value

    async def set(self, path: str, value: Any) -> None:
        """Set the value at `path`; what it lies in must be there."""
        *outer, last = path.split(".")
        async with self._lock:
            place: Any = self._state
            for part in outer:
                place = _look(place, part)
                if place is _MISSING:
                    raise InvalidInput(f"the state has no {'.'.join(outer)!r} to set {last!r} in")
            if isinstance(place, MutableMapping):
                cast("MutableMapping[str, Any]", place)[last] = value
            else:
                setattr(place, last, value)

    async def get_state(self) -> S:
        """A copy of the whole state."""
        async with self._lock:
            return copy.deepcopy(self._state)

    async def set_state(self, state: S) -> None:
        """Replace the whole state."""
        async with self._lock:
            self._state = state

    async def clear(self) -> None:
        """Go back to the state that the run began with."""
        async with self._lock:
            self._state = self._make()

    def edit_state(self) -> StateEdit[S]:
        """`async with ctx.store.edit_state() as state:` nobody else changes it meanwhile."""
        return StateEdit(self)

    @asynccontextmanager
    async def editing(self) -> AsyncGenerator[S, None]:
        async with self._lock:
            with self._undo_on_error():
                yield self._state

    @contextmanager
    def editing_here(self) -> Generator[S, None, None]:
        with self._lock, self._undo_on_error():
            yield self._state

    @contextmanager
    def _undo_on_error(self) -> Generator[None, None, None]:
        try:
            before = copy.deepcopy(self._state)
        except Exception:  # noqa: BLE001 - a lock or a connection in it, whose changes stay
            before = self._state
        try:
            yield
        except BaseException:
            self._state = before
            raise


class StateEdit(Generic[S]):
    """One edit, for `async with` and (in a plain step's thread) `with`."""

    def __init__(self, store: StateStore[S]) -> None:
        self._store = store
        self._async: AbstractAsyncContextManager[S] | None = None
        self._plain: AbstractContextManager[S] | None = None

    async def __aenter__(self) -> S:
        self._async = self._store.editing()
        return await self._async.__aenter__()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._async is not None:
            await self._async.__aexit__(kind, error, trace)

    def __enter__(self) -> S:
        self._plain = self._store.editing_here()
        return self._plain.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._plain is not None:
            self._plain.__exit__(kind, error, trace)


class EditLock:
    """A lock for tasks of any loop and for threads, held across `await`; first come, first served."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held = False
        self._queue: deque[Future[None]] = deque()

    async def __aenter__(self) -> None:
        turn = self._ask()
        if turn is not None:
            try:
                await asyncio.wrap_future(turn)
            except asyncio.CancelledError:
                if not turn.cancel() and not turn.cancelled():
                    self._release()  # the turn came at the same moment
                raise

    async def __aexit__(self, *_: object) -> None:
        self._release()

    def __enter__(self) -> None:
        turn = self._ask()
        if turn is not None:
            if _in_loop():
                turn.cancel()
                raise InvalidInput("in async code use `async with ctx.store.edit_state()`")
            turn.result()

    def __exit__(self, *_: object) -> None:
        self._release()

    def _ask(self) -> Future[None] | None:
        with self._guard:
            if not self._held:
                self._held = True
                return None
            turn: Future[None] = Future()
            self._queue.append(turn)
            return turn

    def _release(self) -> None:
        with self._guard:
            while self._queue:
                turn = self._queue.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._held = False


def _look(value: Any, part: str) -> Any:
    if isinstance(value, MutableMapping):
        return cast("MutableMapping[str, Any]", value).get(part, _MISSING)
    return getattr(value, part, _MISSING)


def _in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
