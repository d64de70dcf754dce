"""Hand-over: what one generation says, from the thread of its engine to the event loop of its reader.

Bounded: an engine that is faster than its reader waits. Whoever leaves, the other one notices at once.
The engine's thread does as little as can be: it gets up for each token, so its code is never warm, and what
it takes is missing to an engine that uses all CPUs. The reader makes pieces of what it finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from .assembly import Piece

# What waits for a slow reader: enough that a moment's work costs no speed, too few to be a buffer.
PIECES_MAX: Final = 64
# An engine with less time than this (in seconds) for a chunk does not wake its reader for each one, which
# would cost both of them more than the chunk itself …
HURRY_CHUNK_S: Final = 0.0005
# … the reader comes back by itself, after this time: the shortest that an event loop can wait.
HURRY_S: Final = 0.001


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
        "_hurried",
        "_left",
        "_loop",
        "_piece_of",
        "_reading",
        "_room",
        "_waiter",
        "_woken_s",
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
        self._waiter: asyncio.Future[None] | None = None
        self._reading = False
        self._hurried = False
        self._woken_s = 0.0
        # The engine's thread, and whether it is done with this generation.
        self.thread: threading.Thread | None = None
        self.finished = threading.Event()

    # --- the engine's thread ---------------------------------------------------------------------

    @property
    def left(self) -> bool:
        """Whether the engine shall stop."""
        return self._left

    def put(self, chunk: Any) -> bool:
        """Hand over a chunk, waiting for room; False if nobody wants it, so the engine shall stop."""
        if self._left:
            return False
        self._chunks.append(chunk)
        # The reader looks once more after it has set its waiter, so one of the two sees the other.
        if self._waiter is not None:
            self._wake_reader()
        if len(self._chunks) >= PIECES_MAX:
            self._room.clear()
            while len(self._chunks) >= PIECES_MAX and not self._left:
                self._room.wait()
                self._room.clear()
        return not self._left

    def end(self, error: Exception | None = None) -> None:
        """No chunk follows. Any thread; the first one counts."""
        if not self._ended:
            self._error = error
            self._ended = True
            self._wake_reader()

    def _wake_reader(self) -> None:
        # Once for each wait, however much comes meanwhile.
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody reads
                self._loop.call_soon_threadsafe(_resolve, waiter)

    # --- the reader's loop -----------------------------------------------------------------------

    async def take(self) -> Piece | None:
        chunks = self._chunks
        while True:
            while not chunks:
                if self._ended and not chunks:
                    if self._error is not None:
                        raise self._error
                    return None
                await self._wait()
            chunk = chunks.popleft()
            if len(chunks) == PIECES_MAX // 2:
                self._room.set()
            piece = self._piece_of(chunk)
            if piece is not None:
                return piece

    def leave(self) -> None:
        self._left = True
        self._room.set()

    async def aclose(self) -> None:
        self.leave()

    async def _wait(self) -> None:
        if self._reading:
            raise RuntimeError("this stream is already being read")
        self._reading = True
        try:
            if self._hurried:
                await asyncio.sleep(HURRY_S)
            if not self._chunks and not self._ended:
                waiter = self._waiter = self._loop.create_future()
                # Once more, because the engine looks for a waiter only after it has put its chunk.
                if not self._chunks and not self._ended:
                    await waiter
            # From one waking to the next, because what came in between is here now.
            last_s, self._woken_s = self._woken_s, self._loop.time()
            self._hurried = self._woken_s - last_s < len(self._chunks) * HURRY_CHUNK_S
        finally:
            self._reading = False
            self._waiter = None


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
