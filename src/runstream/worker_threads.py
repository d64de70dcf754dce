"""Threads for steps that are plain functions.

They are daemons, so that a step which never returns cannot keep the process from ending, and they are
kept for a while, because starting one costs more than a small step. There are as many as steps run at
once: the limit is each step's own `num_workers`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Final

# An idle thread ends after this time.
IDLE_S: Final = 10.0


class WorkerThreads:
    """Runs functions, each at once, on a thread of its own for as long as it lasts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        # Threads of an earlier one end instead of being idle.
        self._epoch = 0

    def run(self, work: Callable[[], None]) -> None:
        """Run `work`, which must not raise, on another thread."""
        with self._lock:
            worker = self._idle.pop() if self._idle else None
        if worker is None:
            worker = _Worker(self._epoch)
            worker.thread = threading.Thread(
                target=self._serve, args=(worker,), name="runstream-step", daemon=True
            )
            worker.work.put(work)
            worker.thread.start()
        else:
            worker.work.put(work)

    @property
    def idle_count(self) -> int:
        """How many threads wait for work."""
        return len(self._idle)

    def end_idle(self) -> None:
        """End the threads that have nothing to do, and the others once they have; waits for the first."""
        with self._lock:
            self._epoch += 1
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.work.put(None)
        for worker in idle:
            if worker.thread is not None and worker.thread is not threading.current_thread():
                worker.thread.join()

    def _serve(self, worker: _Worker) -> None:
        work = worker.work.get()
        while work is not None:
            work()
            # What it holds on to must not live as long as this thread is idle.
            work = None
            with self._lock:
                if worker.epoch != self._epoch:
                    return
                self._idle.append(worker)
            try:
                work = worker.work.get(timeout=IDLE_S)
            except queue.Empty:
                with self._lock:
                    if worker in self._idle:
                        self._idle.remove(worker)
                        return
                work = worker.work.get()  # it was chosen at the last moment


class _Worker:
    __slots__ = ("epoch", "thread", "work")

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None
