"""Hand-over: what one generation says, from the thread of its engine to the event loop of its reader.

Bounded: an engine that is faster than its reader waits. Whoever leaves, the other one notices at once.
The engine's thread does as little as can be: what it takes is missing to an engine that uses all CPUs. The
reader makes pieces of what it finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from .assembly import Piece
from .pace import Pace

# What waits for a slow reader: enough that a moment's work costs no speed, too few to be a buffer.
PIECES_MAX: Final = 64


class PieceSource(Protocol):
    """Where the pieces of one generation come from."""

    async def take(self) -> Piece | None:
        """The next piece; None at the end. Cancelling it loses none.

        Raises InferenceFailed for what went wrong, after the pieces before it.
        """
        ...

    def leave(self) -> None:
        """The reader wants no more: the engine stops. Any thread, any number of times."""
        ...

    async def aclose(self) -> None:
        """Leave, and wait until what the generation holds is free."""
        ...


class HandOver:
    """A PieceSource that an engine's thread fills: `put` and `end` there, the others in the loop.

    What is put are the engine's own chunks. `piece_of` says what is in one, in the loop; None is nothing.
    """

    __slots__ = (
        "_chunks",
        "_ended",
        "_error",
        "_left",
        "_left_lock",
        "_loop",
        "_pace",
        "_patient",
        "_piece_of",
        "_reading",
        "_room",
        "_waiter",
        "_woken",
        "finished",
        "thread",
    )

    def __init__(self, piece_of: Callable[[Any], Piece | None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._piece_of = piece_of
        self._chunks: deque[Any] = deque()
        self._room = threading.Event()
        self._left = False
        self._ended = False
        self._error: Exception | None = None
        # What the reader waits for, set by it alone, and the last one that was woken.
        self._waiter: asyncio.Future[None] | None = None
        self._woken: asyncio.Future[None] | None = None
        self._reading = False
        # Whether who waits comes back by itself, soon.
        self._patient = False
        self._pace = Pace()
        # Closed until the reader leaves, so that waiting for it is a rest that ends then.
        self._left_lock = threading.Lock()
        self._left_lock.acquire()
        # The engine's thread, and whether it is done with this generation.
        self.thread: threading.Thread | None = None
        self.finished = threading.Event()

    # --- the engine's thread ---------------------------------------------------------------------

    @property
    def left(self) -> bool:
        """Whether the engine shall stop."""
        return self._left

    def put(self, chunk: Any) -> bool:
        """Hand over a chunk, waiting for room; False if nobody wants more, so the engine shall stop.

        It comes back as late as it can without keeping the engine, so that a reader that leaves is heard.
        """
        if self._left:
            return False
        rest_s = self._pace.comes()
        self._chunks.append(chunk)
        # The reader looks once more after it has set its waiter, so one of the two sees the other.
        if self._waiter is not None and (
            not self._patient or rest_s or len(self._chunks) >= PIECES_MAX // 2
        ):
            self._wake_reader()
        if len(self._chunks) >= PIECES_MAX:
            self._wait_for_room()
            rest_s = 0.0
        elif rest_s:
            self._left_lock.acquire(timeout=rest_s)
        self._pace.asks(rest_s)
        return not self._left

    def _wait_for_room(self) -> None:
        self._room.clear()
        while len(self._chunks) >= PIECES_MAX and not self._left:
            self._room.wait()
            self._room.clear()

    def end(self, error: Exception | None = None) -> None:
        """No chunk follows. Any thread; the first one counts."""
        if not self._ended:
            self._error = error
            self._ended = True
            self._wake_reader()

    def _wake_reader(self) -> None:
        waiter = self._waiter
        if waiter is not None and waiter is not self._woken:  # once for each wait
            self._woken = waiter
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads
                self._loop.call_soon_threadsafe(_resolve, waiter)

    # --- the reader's loop -----------------------------------------------------------------------

    async def take(self) -> Piece | None:
        chunks = self._chunks
        while True:
            patience_s = self._pace.patience_s
            while not chunks:
                if self._ended and not chunks:
                    if self._error is not None:
                        raise self._error
                    return None
                await self._wait(patience_s)
                patience_s = 0.0  # if there is none yet, the engine has paused
            chunk = chunks.popleft()
            if len(chunks) == PIECES_MAX // 2:
                self._room.set()
            piece = self._piece_of(chunk)
            if piece is not None:
                return piece

    def leave(self) -> None:
        self._left = True
        self._room.set()
        with contextlib.suppress(RuntimeError):  # it is open already
            self._left_lock.release()

    async def aclose(self) -> None:
        self.leave()

    async def _wait(self, patience_s: float) -> None:
        if self._reading:
            raise RuntimeError("this stream is already being read")
        self._reading = True
        timer: asyncio.TimerHandle | None = None
        try:
            waiter = self._loop.create_future()
            self._patient = patience_s > 0
            if self._patient:
                timer = self._loop.call_later(patience_s, _resolve, waiter)
            self._waiter = waiter
            # Once more, because the engine looks for a waiter only after it has put its chunk.
            if not self._chunks and not self._ended:
                await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._reading = False
            self._waiter = None


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
