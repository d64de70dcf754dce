"""Hand-over: what one generation says, from the thread of its engine to the event loop of its reader.

Bounded: an engine that is faster than its reader waits. Whoever leaves, the other one notices at once.
The engine's thread does as little as can be: it gets up for each token, so its code is never warm, and what
it takes is missing to an engine that uses all CPUs. The reader makes pieces of what it finds.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final, Protocol

from .assembly import Piece

# What waits for a slow reader: enough that a moment's work costs no speed, too few to be a buffer.
PIECES_MAX: Final = 64
# An engine that needs less time than this (in seconds) for a chunk is not awaited chunk by chunk: getting up
# for each costs its thread and the reader more than the chunk is worth, and the engine the CPU. The thread
# naps instead, and then takes what has come meanwhile in one go …
FAST_CHUNK_S: Final = 0.0005
# … for a time that nobody sees (in seconds), and for a dozen chunks, as a reader that leaves at one of them
# has to let the others be made.
NAP_S_MAX: Final = 0.002
NAP_CHUNKS_MAX: Final = 12
# A chunk that is there within this time (in seconds) had come before it was asked for.
READY_S: Final = 0.00005


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
        "_asked_s",
        "_chunks",
        "_debt",
        "_ended",
        "_error",
        "_left",
        "_loop",
        "_nap_lock",
        "_napped_s",
        "_piece_of",
        "_reading",
        "_room",
        "_since_nap",
        "_waiter",
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
        # Closed until the reader leaves, so that waiting for it is a nap that ends then.
        self._nap_lock = threading.Lock()
        self._nap_lock.acquire()
        # Of the engine's thread: when it last asked the engine, when it last napped, how many chunks came
        # since, and how many have to come before it may again.
        self._asked_s = self._napped_s = time.monotonic()
        self._since_nap = 0
        self._debt = 2.0  # never before the first one
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
        self._since_nap += 1
        # One that was there already may have others behind it.
        if time.monotonic() - self._asked_s > READY_S and self._since_nap >= self._debt:
            self._nap()
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
        self._asked_s = time.monotonic()
        return not self._left

    def _nap(self) -> None:
        now_s = time.monotonic()
        chunk_s = (now_s - self._napped_s) / self._since_nap
        self._napped_s, self._since_nap, self._debt = now_s, 0, 0.0
        if chunk_s < FAST_CHUNK_S:
            nap_s = min(NAP_S_MAX, NAP_CHUNKS_MAX * chunk_s)
            # Whatever is mistaken for waiting (such as other threads that hold the interpreter's lock), the
            # engine is never kept: what comes during a nap is taken before the next one.
            self._debt = nap_s / chunk_s
            self._nap_lock.acquire(timeout=nap_s)

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
        with contextlib.suppress(RuntimeError):  # it is open already
            self._nap_lock.release()

    async def aclose(self) -> None:
        self.leave()

    async def _wait(self) -> None:
        if self._reading:
            raise RuntimeError("this stream is already being read")
        self._reading = True
        try:
            if not self._chunks and not self._ended:
                waiter = self._waiter = self._loop.create_future()
                # Once more, because the engine looks for a waiter only after it has put its chunk.
                if not self._chunks and not self._ended:
                    await waiter
        finally:
            self._reading = False
            self._waiter = None


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
