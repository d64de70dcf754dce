"""The event loop of its own in which a log talks to its engine, from its opening until it is closed.

So its connections serve every loop and thread, and live for as long as the log, not as a caller's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent import futures
from typing import Any, Final, TypeVar

from .errors import LogClosed, LogUnavailable
from .portal import Portal

# When its connections are gone, a call that is still under way needs a few steps to hear of it.
END_S: Final = 1.0

T = TypeVar("T")


class OwnLoop:
    """Safe for any thread. Once the log is closed, whoever calls or still waits gets `LogClosed`."""

    def __init__(self, engine: str, shown: str) -> None:
        """`engine` names the thread, `shown` is how errors call the log."""
        self._shown = shown
        self._closed = False
        self._closing = threading.Lock()
        self._portal = Portal(f"runstream-{engine}")

    def open(
        self,
        connect: Coroutine[Any, Any, None],
        disconnect: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        """Connect, blocking. If that fails, let go of what is connected, and end."""
        try:
            self._portal.call(connect)
        except BaseException:
            self._portal.call(disconnect())
            self._portal.close()
            raise

    def check_open(self) -> None:
        if self._closed:
            raise self._closed_error()

    async def run(self, work: Coroutine[Any, Any, T], *, to_end: bool = False) -> T:
        """Await `work`, which is done in this loop. Cancelling the caller ends it there; with `to_end`
        only the waiting.
        """
        if self._closed:
            work.close()
            raise self._closed_error()
        try:
            if to_end:
                return await self._portal.wait(self._portal.submit(work))
            return await self._portal.run(work)
        except (LogClosed, LogUnavailable, asyncio.CancelledError, futures.CancelledError):
            task = asyncio.current_task()
            if task is None or not task.cancelling():
                self.check_open()  # nobody has cancelled the caller: the call has ended with the log
            raise

    async def wait(self, future: futures.Future[T]) -> T:
        """Await what something in this loop answers; cancelling only ends the waiting."""
        return await self._portal.wait(future)

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Call `function` in this loop."""
        if self._closed or not self._portal.call_soon(function, *args):
            raise self._closed_error()

    def close(self, shut_down: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Blocks until `shut_down` has let go of the engine. Calling it again does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(LogClosed):  # in a forked child: nothing here is ours
                self._portal.call(self._end(shut_down))
            self._portal.close()

    async def _end(self, shut_down: Callable[[], Coroutine[Any, Any, None]]) -> None:
        await shut_down()
        # Whose answer came at the last moment gets it; what else is under way is cancelled with the loop.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=END_S)

    def _closed_error(self) -> LogClosed:
        return LogClosed(f"the log {self._shown} has been closed")
