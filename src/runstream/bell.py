"""The bell: who in this process is waiting for which stream, and how they are woken.

A log registers a listener *before* it looks for records, so a ring in between is never missed. Ringing
is safe from any thread, and costs one hop per event loop however many listeners there are.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager


class Listener:
    """One waiting caller. Use it within the `listen()` block that made it, in one event loop."""

    __slots__ = ("loop", "rung")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.rung: asyncio.Future[None] = loop.create_future()

    async def wait(self, timeout: float) -> None:
        """Return when rung, or after `timeout` seconds. Safe to cancel."""
        timer = self.loop.call_later(timeout, self.wake)
        try:
            await self.rung
        finally:
            timer.cancel()

    def wake(self) -> None:
        """Runs in the listener's own loop."""
        if not self.rung.done():
            self.rung.set_result(None)


class Bell:
    """Listeners by run id."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[str, set[Listener]] = {}

    @contextmanager
    def listen(self, run_id: str) -> Generator[Listener]:
        """Register a listener for the time of the block."""
        listener = Listener(asyncio.get_running_loop())
        with self._lock:
            self._listeners.setdefault(run_id, set()).add(listener)
        try:
            yield listener
        finally:
            with self._lock:
                there = self._listeners.get(run_id)
                if there is not None:
                    there.discard(listener)
                    if not there:
                        del self._listeners[run_id]

    def ring(self, run_ids: Iterable[str]) -> None:
        """Wake everyone who listens for one of these runs. Any thread."""
        with self._lock:
            woken = [listener for run_id in run_ids for listener in self._listeners.get(run_id, ())]
        self._wake(woken)

    def ring_all(self) -> None:
        """Wake everyone (the log closes, or something changed that has no name)."""
        with self._lock:
            woken = [listener for there in self._listeners.values() for listener in there]
        self._wake(woken)

    @property
    def listened(self) -> list[str]:
        """The runs that somebody listens for now."""
        with self._lock:
            return list(self._listeners)

    @staticmethod
    def _wake(listeners: list[Listener]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[Listener]] = {}
        for listener in listeners:
            by_loop.setdefault(listener.loop, []).append(listener)
        for loop, there in by_loop.items():
            try:
                loop.call_soon_threadsafe(_wake_each, there)
            except RuntimeError:
                # The loop was closed with its listeners still registered: nobody is left to wake.
                continue


def _wake_each(listeners: list[Listener]) -> None:
    for listener in listeners:
        listener.wake()
