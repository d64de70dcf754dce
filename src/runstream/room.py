"""Room: who waits until a bounded queue has some, threads and tasks alike."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterable


class Room:
    """The waiting for a queue. All of it with the queue's lock held, but for `wake`."""

    def __init__(self, lock: threading.Lock) -> None:
        self._changed = threading.Condition(lock)
        # How many threads are blocked now, and the tasks that wait.
        self.threads = 0
        self.tasks: set[asyncio.Future[None]] = set()

    def wait(self, timeout: float, until: Callable[[], bool]) -> bool:
        """Block the calling thread, with the lock given up; False if `timeout` seconds were too short."""
        self.threads += 1
        try:
            return self._changed.wait_for(until, timeout)
        finally:
            self.threads -= 1

    def tell_threads(self) -> None:
        """What `wait` was called for may be true now."""
        if self.threads:
            self._changed.notify_all()

    def enter(self) -> asyncio.Future[None]:
        """A future for a task to await, which then has to `leave`."""
        waiter = asyncio.get_running_loop().create_future()
        self.tasks.add(waiter)
        return waiter

    def leave(self, waiter: asyncio.Future[None]) -> None:
        """Nobody awaits the future any more."""
        self.tasks.discard(waiter)

    def tell_all(self) -> list[asyncio.Future[None]]:
        """There may be room: the threads are told; the tasks that came are given, to `wake` without the
        lock.
        """
        self.tell_threads()
        waiters = list(self.tasks)
        self.tasks.clear()
        return waiters


def wake(waiters: Iterable[asyncio.Future[None]]) -> None:
    """Let the tasks go on. Any thread."""
    for waiter in waiters:
        with contextlib.suppress(RuntimeError):  # its loop was closed: nobody waits there any more
            waiter.get_loop().call_soon_threadsafe(_resolve, waiter)


def _resolve(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
