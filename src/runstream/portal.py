"""A thread with an event loop, for what must go on while the caller's own code blocks or has no loop:
renewing leases, sending queued records, and the synchronous form of the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from .errors import LogClosed

T = TypeVar("T")


class Portal:
    """Runs coroutines of other threads in one loop. Safe for any thread.

    Closing cancels what is still running, so that nobody waits for it any more; after that every call
    raises `LogClosed`.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        # Held while work is handed over, so that none can arrive behind the stop and be forgotten.
        self._door = threading.Lock()
        self._closed = False
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # the interpreter is ending
            self._loop.close()
            raise LogClosed(f"too late to start a thread: {error}") from error

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Start `work` in the portal's loop; cancelling the future cancels it."""
        # (While the interpreter goes down, or in a forked child, our thread runs no more: nobody would
        # ever answer.)
        if os.getpid() == self._pid and not sys.is_finalizing():
            with self._door:
                if not self._closed:
                    return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise LogClosed("this connection to the log is closed, or belongs to the parent process")

    def call_soon(self, function: Callable[..., object], *args: object) -> bool:
        """Call `function` in the portal's loop. False (and nothing happens) once it is closed."""
        if os.getpid() != self._pid:
            return False
        with self._door:
            if not self._closed:
                self._loop.call_soon_threadsafe(function, *args)
            return not self._closed

    def call_later(self, delay_s: float, function: Callable[..., object], *args: object) -> bool:
        """As `call_soon`, after a delay."""
        return self.call_soon(self._loop.call_later, delay_s, function, *args)

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` and block until its result is there. Never from the portal's own thread."""
        future = self.submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # the caller was interrupted (Ctrl-C): nobody waits for it any more
            raise

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` in the portal's loop and await it from another one; cancelling cancels it."""
        return await asyncio.wrap_future(self.submit(work))

    async def wait(self, future: Future[T]) -> T:
        """Await what was submitted, from another loop; cancelling only stops the waiting."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def resolve() -> None:
            if not done.done():
                done.set_result(None)

        def wake(_: Future[T]) -> None:
            with contextlib.suppress(
                RuntimeError
            ):  # that loop was closed: nobody waits there any more
                loop.call_soon_threadsafe(resolve)

        future.add_done_callback(wake)
        await done
        return future.result()

    def close(self) -> None:
        """Cancel what is running and end the thread. Blocks until it has ended (but not for itself)."""
        if os.getpid() != self._pid:
            return
        with self._door:
            if not self._closed:
                self._closed = True
                self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            # What is cancelled may start something else to clean up after itself.
            while left := asyncio.all_tasks(self._loop):
                for task in left:
                    task.cancel()
                self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        finally:
            self._loop.close()
