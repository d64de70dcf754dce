"""Threads for steps that are plain functions.

They are daemons, so that a step which never returns cannot keep the process from ending, and they are
kept for a while, because starting one costs more than a small step. There are as many as steps run at
once: the limit is each step's own `num_workers`.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final

# An idle thread ends after this time.
IDLE_S: Final = 10.0


class WorkerThreads:
    """Runs functions, each at once, on a thread of its own for as long as it lasts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []

    def run(self, work: Callable[[], None]) -> None:
        """Run `work`, which must not raise, on another thread."""
        with self._lock:
            worker = self._idle.pop() if self._idle else None
            if worker is not None:
                worker.work.append(work)
        if worker is None:
            worker = _Worker()
            worker.work.append(work)
            threading.Thread(
                target=self._serve, args=(worker,), name="runstream-step", daemon=True
            ).start()
        else:
            worker.bell.release()

    def _serve(self, worker: _Worker) -> None:
        while True:
            worker.work.popleft()()
            with self._lock:
                self._idle.append(worker)
            if not worker.bell.acquire(timeout=IDLE_S):
                with self._lock:
                    if not worker.work:
                        self._idle.remove(worker)
                        return
                worker.bell.acquire()


class _Worker:
    __slots__ = ("bell", "work")

    def __init__(self) -> None:
        self.work: deque[Callable[[], None]] = deque()
        self.bell = threading.Semaphore(0)
