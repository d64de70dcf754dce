"""Attempts: the control over one attempt's code, and steps that are called as functions.

A called step runs in its caller's place (a plain function with a time limit: in a thread beside it), so
its result and its errors go where an ordinary call's would.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextvars import Token, copy_context
from typing import Any, Final

from . import process
from .conductor import Conductor
from .context import Scope, UnitOfWork, current_scope
from .errors import RunCancelled, RunEnded, StepTimedOut
from .payload import result_fields
from .step_future import StepFuture
from .ticks import Finished, Halted, Work

# What ends code without being its failure.
HALTING: Final = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)


class Attempt:
    """The control over one attempt's code (or a body's): whether it must stop, and what it calls."""

    __slots__ = ("conductor", "loop", "nested", "number", "stopped", "task", "timed_out", "work")

    def __init__(self, conductor: Conductor, work: Work | None = None) -> None:
        self.conductor = conductor
        self.work = work
        self.number = work.attempt if work else 1
        self.stopped = False
        self.timed_out: float | None = None
        # The attempts of the steps that this code has called and waits for.
        self.nested: set[Attempt] = set()
        self.task: asyncio.Task[Any] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        if self.stopped:
            raise self.reason()

    def reason(self) -> Exception:
        """Why the code must stop."""
        run_id = self.conductor.run_id
        name = self.work.step.name if self.work else "the pipeline"
        if self.timed_out is not None:
            return StepTimedOut(f"step {name!r} exceeded its {self.timed_out:g} s")
        if self.conductor.state.phase == "ended":
            return RunEnded(f"run {run_id!r} has ended")
        return RunCancelled(f"run {run_id!r} is ending, {name!r} was told to stop")

    def stop(self, timed_out: float | None = None) -> None:
        """Tell the code to stop, and whatever it has called. Any thread."""
        self.stopped = True
        self.timed_out = timed_out
        for inner in list(self.nested):
            inner.stop()
        if self.task is not None and self.loop is not None:
            with contextlib.suppress(
                RuntimeError
            ):  # its loop was closed: nothing runs there any more
                self.loop.call_soon_threadsafe(_cancel, self.task)

    def run_in(self, task: asyncio.Task[Any] | None) -> None:
        """The code runs in this task, so stopping cancels it."""
        self.task = task
        self.loop = task.get_loop() if task else None
        if self.stopped and task is not None:
            _cancel(task)

    def call(self, unit: UnitOfWork, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = Call(self, unit, args, kwargs)
        return call.run_async() if unit.is_async else call.run()

    def submit(
        self, unit: UnitOfWork, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> StepFuture[Any]:
        self.check()
        call = Call(self, unit, args, kwargs)
        handed: StepFuture[Any]
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        if not unit.is_async:
            handed = StepFuture(future)
            process.threads().run(_running(copy_context().run, call.run, future))
        elif (loop := _running_loop()) is not None:
            task = loop.create_task(call.run_async())
            task.add_done_callback(lambda done: _hand_over(done, future))
            handed = StepFuture(future, loop)
        else:
            handed = StepFuture(self.conductor.run_beside(call.run_async()), self.conductor.home)
        self.conductor.keep(handed)
        return handed

    def adopt(self, run_id: str, cancel: Callable[[], None], ended: Future[Any]) -> None:
        self.conductor.adopt(run_id, cancel, ended)


class Call:
    """One call of a step. It is begun when it is run, and waits for its turns between attempts."""

    __slots__ = (
        "_args",
        "_attempt",
        "_conductor",
        "_halt",
        "_kwargs",
        "_outer",
        "_outer_scope",
        "_started",
        "_token",
        "_turn",
        "_unit",
        "_work",
    )

    def __init__(
        self, outer: Attempt, unit: UnitOfWork, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self._outer = outer
        self._conductor = outer.conductor
        self._unit = unit
        self._args = args
        self._kwargs = kwargs
        scope = current_scope.get()
        assert scope is not None  # noqa: S101 - a call comes through its scope's control
        self._outer_scope: Scope = scope
        # Done when the next attempt may begin (or there is none any more).
        self._turn: Future[None] = Future()
        # Done when the time of the present attempt is up, or it is over.
        self._halt: Future[None] = Future()
        self._attempt: Attempt | None = None
        self._token: Token[Scope | None] | None = None
        self._started = 0.0

    # What the conductor tells a called step.

    def start(self) -> None:
        _set(self._turn)

    def stop(self, timed_out: float | None) -> None:
        if self._attempt is not None:
            self._attempt.stop(timed_out)
        if timed_out is None:
            _set(self._turn)
        else:
            _set(self._halt)

    # The two ways to run it.

    def run(self) -> Any:
        """Run it here, blocking."""
        self._begin()
        try:
            while True:
                attempt = self._enter()
                try:
                    if self._unit.plan.timeout is None:
                        result = self._unit.function(*self._args, **self._kwargs)
                    else:
                        result = self._run_beside(attempt)
                except BaseException as error:
                    self._leave(attempt)
                    final = self._failed(attempt, error)
                    if final is error:
                        raise
                    if final is not None:
                        raise final from None
                    self._turn.result()
                    self._check_turn()
                else:
                    self._leave(attempt)
                    return self._finished(attempt, result)
        finally:
            self._conductor.done_with(self._work)

    async def run_async(self) -> Any:
        """Run it in the calling task; with a time limit, in one of its own."""
        self._begin()
        try:
            while True:
                attempt = self._enter()
                try:
                    coroutine: Coroutine[Any, Any, Any] = self._unit.function(
                        *self._args, **self._kwargs
                    )
                    if self._unit.plan.timeout is None:
                        attempt.run_in(asyncio.current_task())
                        result = await coroutine
                    else:
                        result = await _limited(attempt, self._halt, coroutine)
                except BaseException as error:
                    self._leave(attempt)
                    final = self._failed(attempt, error)
                    if final is error:
                        raise
                    if final is not None:
                        raise final from None
                    await self._wait_turn()
                else:
                    self._leave(attempt)
                    return self._finished(attempt, result)
        finally:
            self._conductor.done_with(self._work)

    # What they share.

    def _begin(self) -> None:
        self._outer.check()
        self._work = self._conductor.begin(self._unit, self)

    def _enter(self) -> Attempt:
        work, outer = self._work, self._outer
        attempt = self._attempt = Attempt(self._conductor, work)
        outer.nested.add(attempt)
        if self._turn.done():
            self._turn = Future()
        if self._halt.done():
            self._halt = Future()
        scope = dataclasses.replace(
            self._outer_scope,
            step=work.step.name,
            step_run_id=work.step_run_id,
            attempt=work.attempt,
            control=attempt,
        )
        self._token = current_scope.set(scope)
        self._started = time.monotonic()
        if outer.stopped or work.state not in ("running", "delayed"):
            attempt.stop(outer.timed_out)
        return attempt

    def _leave(self, attempt: Attempt) -> None:
        self._outer.nested.discard(attempt)
        attempt.task = None
        if self._token is not None:
            with contextlib.suppress(ValueError):  # closed by the collector, in another context
                current_scope.reset(self._token)

    def _run_beside(self, attempt: Attempt) -> Any:
        outcome: Future[Any] = Future()
        outcome.set_running_or_notify_cancel()
        context = copy_context()

        def function() -> Any:
            return self._unit.function(*self._args, **self._kwargs)

        process.threads().run(_running(context.run, function, outcome))
        halt = self._halt
        outcome.add_done_callback(lambda _: _set(halt))
        halt.result()
        if attempt.timed_out is None:
            return outcome.result()
        raise attempt.reason()

    def _failed(self, attempt: Attempt, error: BaseException) -> BaseException | None:
        """The error for the caller; None if there is another attempt to come."""
        work, conductor = self._work, self._conductor
        if attempt.timed_out is not None and self._unit.plan.timeout is not None:
            # The engine has decided already, when the time was up.
            if not isinstance(error, StepTimedOut):
                error = attempt.reason()
        elif isinstance(error, HALTING) or attempt.stopped:
            conductor.feed(Halted(time.monotonic(), work.id, attempt.number))
            return error
        else:
            conductor.fail(work, attempt.number, error)
        if work.state == "done":
            conductor.blamed.append((error, work.step.name, work.attempt))
            return error
        return None

    def _finished(self, attempt: Attempt, result: Any) -> Any:
        now = time.monotonic()
        data = {**result_fields(result), "duration": round(now - self._started, 6)}
        self._conductor.feed(Finished(now, self._work.id, attempt.number, data))
        return result

    async def _wait_turn(self) -> None:
        try:
            await asyncio.wrap_future(self._turn)
        except asyncio.CancelledError:
            self._conductor.feed(Halted(time.monotonic(), self._work.id, self._work.attempt))
            raise
        self._check_turn()

    def _check_turn(self) -> None:
        if self._outer.stopped and self._work.state != "done":
            self._conductor.feed(Halted(time.monotonic(), self._work.id, self._work.attempt))
            raise self._outer.reason()
        if self._work.state != "running":
            raise RunCancelled(
                f"run {self._conductor.run_id!r} is ending: {self._unit.plan.name!r} isn't retried"
            )


async def _limited(
    attempt: Attempt, halt: Future[None], coroutine: Coroutine[Any, Any, Any]
) -> Any:
    """Await it in a task of its own, until `halt` says that its time is up: a step that swallows its
    cancellation must not keep the caller.
    """
    task = asyncio.get_running_loop().create_task(coroutine)
    attempt.run_in(task)
    told = asyncio.wrap_future(halt)
    try:
        await asyncio.wait((task, told), return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        _cancel(task)
        await asyncio.wait((task,))
        raise
    finally:
        told.cancel()
    if attempt.timed_out is not None:
        raise attempt.reason()
    return await task


def _running(
    run: Callable[..., Any], function: Callable[[], Any], outcome: Future[Any]
) -> Callable[[], None]:
    """`function` for a thread, in its context; what becomes of it goes into `outcome`."""

    def work() -> None:
        try:
            result = run(function)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    return work


def _hand_over(task: asyncio.Task[Any], future: Future[Any]) -> None:
    if task.cancelled():
        future.set_exception(RunCancelled("the step was cancelled"))
        return
    error = task.exception()
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(task.result())


def _cancel(task: asyncio.Task[Any]) -> None:
    """Cancel once: a second time would interrupt the cleaning up."""
    if not task.cancelling():
        task.cancel()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _set(future: Future[None]) -> None:
    with contextlib.suppress(InvalidStateError):
        future.set_result(None)
