"""Pipelines: a function that calls steps, made a run by `@pipeline`."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import time
from collections.abc import Callable, Collection
from contextvars import copy_context
from typing import Any, Generic, ParamSpec, TypeVar, cast, overload

from .attempt import HALTING, Attempt
from .errors import InvalidInput
from .events import Event, check_name
from .handler import Handler
from .launch import launch_in_loop, launch_in_thread, make_runner
from .payload import exception_payload, result_fields
from .run_state import Plan
from .runner import Runner
from .ticks import Begun, BodyFailed, BodyFinished, BodyHalted, Work
from .workflow import CANCEL_GRACE_S

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger(__name__)


class Pipeline(Generic[P, R]):
    """A function made a pipeline. Calling it runs it and gives its result; `run` gives a handler."""

    def __init__(
        self,
        function: Callable[P, R],
        *,
        name: str,
        timeout: float | None,
        cancel_grace: float,
    ) -> None:
        self.function = function
        self.name = name
        self.is_async = inspect.iscoroutinefunction(function)
        self.run_timeout = timeout
        self._cancel_grace = cancel_grace
        functools.update_wrapper(self, function)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it: the function's result, or for an async one an awaitable of it.

        Called inside a run it makes a child run. The error is the function's own, or RunCancelled or
        RunTimedOut if it was ended from outside.
        """
        runner = self._make_runner(args, kwargs, None, None)
        if self.is_async:
            return cast(R, _run_and_wait(runner))
        try:
            copy_context().run(runner.go_here)
        except HALTING:
            runner.outcome.exception()  # the end is stored before the interruption goes on
            raise
        return cast(R, runner.outcome.result())

    def run(
        self, *args: Any, run_id: str | None = None, url: str | None = None, **kwargs: Any
    ) -> Handler:
        """Start it with the function's arguments, and return its handler at once.

        An async function runs in the calling event loop (without one, in a thread and loop of its own),
        a plain one in a thread.

        Args:
            args, kwargs: the function's.
            run_id: your own id; drawn at random by default.
            url: the log; by default `RUNSTREAM_URL`, else SQLite in the user's data directory.

        Raises:
            TypeError: the arguments don't fit the function.
            InvalidInput: the id or the URL cannot be.
        """
        runner = self._make_runner(args, kwargs, run_id, url)
        return launch_in_loop(runner) if self.is_async else launch_in_thread(runner)

    def _make_runner(
        self, args: tuple[Any, ...], kwargs: dict[str, Any], run_id: str | None, url: str | None
    ) -> Runner:
        try:
            given = inspect.signature(self.function).bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"pipeline {self.name!r}: {error}") from None
        call = functools.partial(self.function, *args, **kwargs)
        plan = Plan(timeout=self.run_timeout, grace=self._cancel_grace)
        job = BodyJob(plan, call, is_async=self.is_async)
        return make_runner(job, self.name, run_id, url, dict(given.arguments))

    def __repr__(self) -> str:
        return f"<pipeline {self.name!r}>"


class BodyJob:
    """One run of a pipeline: its function, which calls the steps itself."""

    def __init__(self, plan: Plan, function: Callable[[], Any], *, is_async: bool) -> None:
        self.plan = plan
        self._function = function
        self._is_async = is_async
        self.event_classes: Collection[type[Event]] = ()
        self._runner: Runner | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, runner: Runner) -> None:
        self._runner = runner
        runner.conductor.feed(Begun(time.monotonic(), body=True))
        if not runner.conductor.state.body:
            return  # cancelled before it began, as the child of a run that is ending
        if self._is_async:
            # (The variables of `context` are those of this very task.)
            self._task = asyncio.get_running_loop().create_task(
                self._run_async(runner), name=runner.run.workflow
            )
            self._attempt(runner).run_in(self._task)
        else:
            self._run(runner)

    def start(self, work: Work) -> None:
        """A pipeline has no routed steps."""

    def stop(self, work: Work, attempt: int, timed_out: float | None) -> None:
        """As above."""

    def stop_body(self) -> None:
        if self._runner is not None:
            self._attempt(self._runner).stop()

    def receive(self, event: Event) -> None:
        """Nobody in a pipeline waits for events: whoever sent this one should hear so."""
        run_id = "" if self._runner is None else self._runner.run_id
        logger.warning(
            "run %s: the event %r that was sent is stored, but a pipeline reads none: only a workflow's "
            "steps do",
            run_id,
            event.event_type,
        )

    def result_of(self, result: Any, size_bytes_max: int) -> tuple[Any, dict[str, object]]:
        return result, result_fields(result, size_bytes_max=size_bytes_max)

    def _run(self, runner: Runner) -> None:
        try:
            result = self._function()
            # (A step that is waited for may submit more.)
            while unasked := runner.conductor.unasked():
                for future in unasked:
                    future.result()
        except BaseException as error:
            self._failed(runner, error)
            if isinstance(error, HALTING):
                raise
        else:
            runner.conductor.feed(BodyFinished(time.monotonic(), result))

    async def _run_async(self, runner: Runner) -> None:
        try:
            result = await self._function()
            while unasked := runner.conductor.unasked():
                for future in unasked:
                    await future
        except BaseException as error:
            self._failed(runner, error)
            if not isinstance(error, (Exception, asyncio.CancelledError)):
                raise
        else:
            runner.conductor.feed(BodyFinished(time.monotonic(), result))

    def _failed(self, runner: Runner, error: BaseException) -> None:
        now = time.monotonic()
        conductor = runner.conductor
        if self._attempt(runner).stopped or isinstance(error, HALTING):
            conductor.feed(BodyHalted(now, type(error).__name__))
            return
        conductor.errors[0] = error
        tick = BodyFailed(now, exception_payload(error))
        for blamed, step, attempts in conductor.blamed:
            if blamed is error:
                tick.step, tick.attempts = step, attempts
        conductor.feed(tick)

    @staticmethod
    def _attempt(runner: Runner) -> Attempt:
        assert runner.run.attempt is not None  # noqa: S101 - the run is open
        return runner.run.attempt


async def _run_and_wait(runner: Runner) -> Any:
    """The run is the caller's own doing, so cancelling the call cancels the run."""
    handler = launch_in_loop(runner)
    try:
        return await handler
    except asyncio.CancelledError:
        if runner.task is not None and not handler.is_done():
            runner.task.cancel("its caller was cancelled")
            await asyncio.wait((runner.task,))
        raise


@overload
def pipeline(function: Callable[P, R], /) -> Pipeline[P, R]: ...
@overload
def pipeline(
    *,
    name: str | None = None,
    timeout: float | None = None,
    cancel_grace: float = CANCEL_GRACE_S,
    dynamic: bool = True,
) -> Callable[[Callable[P, R]], Pipeline[P, R]]: ...
def pipeline(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    timeout: float | None = None,
    cancel_grace: float = CANCEL_GRACE_S,
    dynamic: bool = True,  # noqa: ARG001 - accepted, see below
) -> Any:
    """Make a function a pipeline: `@pipeline`, or `@pipeline(timeout=60)`.

    Inside it, the steps that it calls are steps of its run; `step.submit(...)` and, for async steps,
    `asyncio.gather` run them side by side. What it publishes itself belongs to the run and no step.

    Args:
        name: what its runs are called; by default the function's name.
        timeout: seconds after which a run ends as timed out.
        cancel_grace: seconds that the end of a run waits for code that was told to stop.
        dynamic: accepted for those who are used to it: every pipeline may decide as it goes.
    """
    if timeout is not None and not timeout > 0:
        raise InvalidInput(f"a timeout is a number of seconds above 0, not {timeout}")

    def declare(function: Callable[..., Any]) -> Pipeline[..., Any]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidInput(f"{function.__name__!r} is a generator: a pipeline returns")
        return Pipeline(
            function,
            name=check_name(function.__name__ if name is None else name, "workflow"),
            timeout=timeout,
            cancel_grace=cancel_grace,
        )

    return declare if function is None else declare(function)
