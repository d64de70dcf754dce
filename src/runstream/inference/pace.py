"""Pace: how fast an engine makes its chunks, and so how long its thread may rest after one.

An engine goes on while its chunk is handed over, and hears only between two chunks that nobody wants more. So
the thread of a slow one spends the time waiting for its reader to leave, and tells it before the next chunk
is done. That of a fast one naps and then takes many chunks in one go: getting up for each would cost it,
the reader and the engine more than the chunk is worth.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Final

# An engine is fast if it needs less time than this for a chunk, in seconds.
FAST_CHUNK_S: Final = 0.0005
# A nap is a time that nobody sees (in seconds), and is for no more chunks than this: a reader that leaves at
# the first of them has let the others be made.
NAP_S_MAX: Final = 0.002
NAP_CHUNKS_MAX: Final = 24
# The thread wakes the reader before each nap. A reader that hears nothing for so many of them looks itself:
# the engine may have stopped in between.
PATIENCE_NAPS: Final = 2
# The thread of a slow engine rests for this share of the time for a chunk, less what getting up takes (in
# seconds): it is back before the next one.
LINGER_SHARE: Final = 0.9
GETTING_UP_S: Final = 0.0002
# The time for a chunk is the least of the last few: one that took long says nothing about those after it.
RECENT_CHUNKS: Final = 4
# A thread that was idle for no longer than this (in seconds) before a chunk may find others behind it.
READY_S: Final = 0.00005
# A rest that ends later than it should by this (in seconds) shows that the interpreter's lock or the CPUs are
# taken, so that chunks wait for the thread. It does not rest for so many chunks.
LATE_S: Final = 0.001
RESTLESS_CHUNKS: Final = 64


class Pace:
    """That of one generation, as the thread sees it that takes the engine's chunks."""

    __slots__ = (
        "_asked_cpu_s",
        "_asked_s",
        "_chunks",
        "_debt",
        "_recent_s",
        "_since_s",
        "patience_s",
    )

    def __init__(self) -> None:
        # How long a reader waits before it looks whether there are chunks, in seconds; 0.0: it is woken for
        # each. Any thread may look.
        self.patience_s = 0.0
        self._recent_s: deque[float] = deque(maxlen=RECENT_CHUNKS)
        # When the engine was last waited for, the chunks since then, and how many have to come before it is
        # asked again whether there is time for a rest.
        self._since_s = time.monotonic()
        self._chunks = 0
        self._debt = 0.0
        # The time, and the thread's CPU time, when it last asked for a chunk.
        self._asked_s = self._since_s
        self._asked_cpu_s = 0.0

    def asks(self, rested_s: float = 0.0) -> None:
        """The thread asks for the next chunk, after it has rested for so long, or a little longer."""
        if not rested_s and self._chunks + 1 < self._debt:
            return  # nobody will want to know: there is no rest after that one
        self._asked_s = time.monotonic()
        self._asked_cpu_s = time.thread_time()
        if rested_s and self._asked_s - self._since_s > rested_s + LATE_S:
            self._debt = RESTLESS_CHUNKS

    def comes(self) -> float:
        """A chunk has come: how long to rest after it (in seconds), while the engine makes the next."""
        self._chunks += 1
        if self._chunks < self._debt:
            return 0.0
        now_s = time.monotonic()
        gap_s = now_s - self._asked_s
        # What the thread did itself to get the chunk is no waiting.
        if gap_s <= READY_S or gap_s - (time.thread_time() - self._asked_cpu_s) <= READY_S:
            return 0.0
        if self.patience_s and gap_s > NAP_S_MAX:  # it is not fast any more
            self._recent_s.clear()
        is_single = self._chunks == 1
        self._recent_s.append((now_s - self._since_s) / self._chunks)
        self._since_s, self._chunks, self._debt, self.patience_s = now_s, 0, 0.0, 0.0
        if len(self._recent_s) < RECENT_CHUNKS:
            return 0.0
        chunk_s = min(self._recent_s)
        if chunk_s > FAST_CHUNK_S:
            # Those that come several at a time don't wait for one another.
            return LINGER_SHARE * chunk_s - GETTING_UP_S if is_single else 0.0
        nap_s = min(NAP_S_MAX, NAP_CHUNKS_MAX * chunk_s)
        # Whatever is mistaken for idling, the engine is never kept: what comes during a nap is taken before
        # the next one.
        self._debt = nap_s / chunk_s
        self.patience_s = PATIENCE_NAPS * nap_s
        return nap_s
