"""The future of a step's result: what `step.submit(...)` gives, to plain and to async code."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from .errors import InvalidInput

T_co = TypeVar("T_co", covariant=True)


class StepFuture(Generic[T_co]):
    """A step's result to come: `await` it, or ask for `result()` in plain code.

    A pipeline waits for the steps that it submitted. The error of one that nobody asked is the
    pipeline's own.
    """

    __slots__ = ("_future", "_loop", "asked")

    def __init__(self, future: Future[Any], loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._future = future
        # The loop in which the step runs, where a blocking wait could only deadlock.
        self._loop = loop
        # Whether anybody has looked at the outcome.
        self.asked = False

    def done(self) -> bool:
        """Whether the step has ended, well or not."""
        return self._future.done()

    def result(self, timeout: float | None = None) -> T_co:
        """Block until the result is there. Raises the step's error; `TimeoutError` after `timeout` s."""
        if self._loop is not None and not self._future.done():
            try:
                here: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
            except RuntimeError:
                here = None
            if here is self._loop:
                raise InvalidInput("await this step's future: the step runs in this very loop")
        try:
            outcome: T_co = self._future.result(timeout)
        finally:
            self.asked = self.asked or self._future.done()
        return outcome

    def exception(self) -> BaseException | None:
        """The error of a step that has ended, if it had one."""
        self.asked = True
        return self._future.exception(0)

    def __await__(self) -> Generator[Any, None, T_co]:
        self.asked = True
        # Cancelling who waits doesn't cancel the step.
        outcome: T_co = yield from asyncio.shield(asyncio.wrap_future(self._future)).__await__()
        return outcome
