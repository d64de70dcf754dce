"""Crowd: while many appends come at once, the threads of a server let one another finish.

A thread that is woken may take the CPU from the one that runs. A lone append is fast by that; in a crowd it
only means that each is looked at alone, and few share a commit or a wake-up. Linux has a policy for threads
that wait for their turn instead, SCHED_BATCH. It is given back as soon as the crowd has gone, since a thread
that waits its turn is slow beside another program that takes all of a CPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Final

# So long one counts, in seconds: a burst that is over sooner needs no help.
LOOK_S: Final = 0.1
# So many appends in that time are a crowd: they take a fifth of a core.
CROWD_APPENDS: Final = 100


class Crowd:
    """Of the one event loop of a process that does nothing but serve: what the threads start, programs
    too, begins with their policy. The loop's own thread, which subscribers wait for, may always interrupt.
    """

    def __init__(self) -> None:
        self._came = 0
        self._looks = False
        self._is_here = False
        # Threads that somebody has chosen a policy for.
        self._chosen: set[int] = set()

    def comes(self) -> None:
        """An append has come."""
        self._came += 1
        if not self._looks and sys.platform == "linux":
            self._looks = True
            asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def _look(self) -> None:
        came, self._came = self._came, 0
        if came >= CROWD_APPENDS and not self._is_here:
            self._is_here = True
            threads = _threads()
            self._chosen = threads - _change(threads, os.SCHED_OTHER, os.SCHED_BATCH)
        elif came < CROWD_APPENDS // 2 and self._is_here:
            self._is_here = False
            # Those too that others have started meanwhile.
            _change(_threads() - self._chosen, os.SCHED_BATCH, os.SCHED_OTHER)
        self._looks = came > 0 or self._is_here
        if self._looks:
            asyncio.get_running_loop().call_later(LOOK_S, self._look)


def _threads() -> set[int]:
    """All threads of this process, but for the calling one."""
    own = threading.get_native_id()
    return {int(task.name) for task in Path("/proc/self/task").iterdir()} - {own}


def _change(threads: set[int], before: int, after: int) -> set[int]:
    """Give those that have one policy another; which that were. Where a system forbids it, none."""
    changed: set[int] = set()
    for thread in threads:
        with contextlib.suppress(OSError):  # it has ended, or we may not
            if os.sched_getscheduler(thread) == before:
                os.sched_setscheduler(thread, after, os.sched_param(0))
                changed.add(thread)
    return changed
