"""The runner: one run in this process, from its opening to its end.

It opens the run, follows its stream for signals and cancel requests, lets the engine conduct it, and
writes the terminal record, which is stored before whoever awaits the run hears of its end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from concurrent.futures import Future
from contextvars import Context as ContextVars
from contextvars import copy_context
from typing import Any, Final, Protocol, cast

import msgspec
from pydantic import ValidationError

from .attempt import Attempt
from .conductor import Conductor
from .context import Control, Outlet, Scope, current_scope
from .errors import (
    LeaseLost,
    ProducerFenced,
    RunCancelled,
    RunEnded,
    RunFailed,
    RunLost,
    RunstreamError,
    RunTimedOut,
    StepTimedOut,
)
from .events import Event, event_class
from .filter import make_filter
from .log import STATUS_BY_KIND, Log, Status
from .payload import cut_text
from .publisher import Publisher
from .record import Draft, Record, now_us
from .run import Run
from .run_state import Plan
from .start import make_start
from .subscription import Subscription
from .ticks import CancelAsked, End, Work

# Following a run's own stream begins this long after it was opened: a signal in its first moments comes so
# much later, and runs that are over by then, of which there may be thousands, are never followed.
FOLLOW_AFTER_S: Final = 0.01
# What the envelope of a terminal record's data may add to the result.
END_SIZE_BYTES: Final = 1024

logger = logging.getLogger(__name__)


class Job(Protocol):
    """What a runner runs: a workflow's steps, or a pipeline's body."""

    @property
    def plan(self) -> Plan: ...
    @property
    def event_classes(self) -> Collection[type[Event]]:
        """The event classes that this run uses, which may not be the newest of their kinds."""
        ...

    def begin(self, runner: Runner) -> None:
        """The run is open."""
        ...

    def start(self, work: Work) -> None: ...
    def stop(self, work: Work, attempt: int, timed_out: float | None) -> None: ...
    def stop_body(self) -> None: ...
    def receive(self, event: Event) -> None:
        """A signal has come."""
        ...

    def result_of(self, result: Any, size_bytes_max: int) -> tuple[Any, dict[str, object]]:
        """What the awaiting code gets, and what the terminal record says of it."""
        ...


class Execution(Run):
    """A run whose end is the engine's to write."""

    def __init__(
        self, workflow: str, *, run_id: str | None, url: str | None, input_fields: dict[str, object]
    ) -> None:
        super().__init__(
            workflow,
            run_id=run_id,
            url=url,
            parent="auto",
            producer=None,
            lease_s=None,
            grace_s=0.0,
            overflow=None,
            linger_s=0.0,
        )
        self.attempt: Attempt | None = None
        self.conductor: Conductor | None = None
        self.runner: Runner | None = None
        self._input_fields = input_fields
        self._follow_timer: asyncio.TimerHandle | None = None
        self._following: asyncio.Task[None] | None = None

    @property
    def publisher(self) -> Publisher:
        if self._publisher is None:
            raise RunstreamError("this run is not open")
        return self._publisher

    @property
    def parent_control(self) -> Control | None:
        """The control of the code that started this as a child in its own process."""
        return self._parent.control if self._parent is not None else None

    @property
    def opened_at(self) -> int:
        """The newest record that was there when the run was opened."""
        return self._opened.info.last_seq if self._opened is not None else 0

    async def _join(self, publisher: Publisher) -> None:
        await super()._join(publisher)
        loop = asyncio.get_running_loop()
        self._follow_timer = loop.call_later(FOLLOW_AFTER_S, self._start_following)

    def _start_following(self) -> None:
        if self.runner is not None:
            self._following = asyncio.ensure_future(self.runner.follow(self.publisher))

    async def _released(self, publisher: Publisher) -> None:
        if self._follow_timer is not None:
            self._follow_timer.cancel()
        if self._following is not None:
            self._following.cancel()
        await super()._released(publisher)

    def leave(self) -> Future[RunstreamError | None] | None:
        """The terminal record is queued: wait (not here) until it is stored, and let go of the run."""
        return self._leave(None)

    def _control(self, outlet: Outlet) -> Control | None:
        runner = self.runner
        if runner is None:
            return None
        self.conductor = Conductor(
            runner.job.plan,
            run_id=self.run_id,
            outlet=outlet,
            portal=self.publisher.portal,
            program=runner,
        )
        self.attempt = Attempt(self.conductor)
        return self.attempt

    def _first_record(self, outlet: Outlet) -> None:
        if self.resumed:
            super()._first_record(outlet)
            return
        family = {"parent_run_id": self.parent_run_id, "root_run_id": outlet.root_run_id}
        self._put(
            outlet, "run.started", {"workflow": self.workflow, **family, **self._input_fields}
        )

    def _last_record(self, outlet: Outlet, error: BaseException | None) -> None:
        if self.conductor is None:  # given up while it was being opened
            super()._last_record(outlet, error)


class Runner:
    """One run under way. `opened` gets its log, `outcome` its result or the error it ended with."""

    def __init__(self, job: Job, run: Execution) -> None:
        self.job = job
        self.run = run
        self.run_id = run.run_id
        self.opened: Future[Log] = claimed()
        self.outcome: Future[Any] = claimed()
        self.status: Status = "running"
        # The variables that its steps begin with.
        self.context: ContextVars | None = None
        # The task that runs it in the caller's loop, which itself holds on to tasks only weakly.
        self.task: asyncio.Task[None] | None = None
        self._end: End | None = None
        self._value: Any = None
        run.runner = self

    @property
    def conductor(self) -> Conductor:
        assert self.run.conductor is not None  # noqa: S101 - only asked once the run is open
        return self.run.conductor

    @property
    def scope(self) -> Scope:
        assert self.context is not None  # noqa: S101 - as above
        scope = self.context.get(current_scope)
        assert scope is not None  # noqa: S101 - entering the run has set it
        return scope

    async def go(self) -> None:
        """Run it in this loop. It has ended when this returns."""
        try:
            await self.run.__aenter__()
        except BaseException as error:
            self._not_opened(error)
            if not isinstance(error, Exception):
                raise
            return
        self.conductor.home = asyncio.get_running_loop()
        self._begin()
        ended = asyncio.wrap_future(self.outcome)
        ended.add_done_callback(_look_at)
        try:
            await asyncio.wait((ended,))
        except asyncio.CancelledError as error:
            self.cancel(str(error.args[0]) if error.args else "its event loop is ending")
            await asyncio.wait((ended,))
            raise

    def go_here(self) -> None:
        """Run it in this thread."""
        try:
            self.run.__enter__()
        except BaseException as error:
            self._not_opened(error)
            if not isinstance(error, Exception):
                raise
            return
        self._begin()

    def cancel(self, reason: str | None = None) -> None:
        """End the run as cancelled. Any thread; a run that is ending already isn't changed."""
        told = None if reason is None else cut_text(reason)
        self.conductor.feed(CancelAsked(time.monotonic(), told))

    def _begin(self) -> None:
        self.context = copy_context()
        publisher = self.run.publisher
        publisher.in_progress.add(self)
        self.opened.set_result(publisher.log)
        parent = self.run.parent_control
        if parent is not None:
            parent.adopt(self.run_id, lambda: self.cancel("its parent run is ending"), self.outcome)
        self.job.begin(self)

    def _not_opened(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            error = RunCancelled(f"run {self.run_id!r} was cancelled while it was being opened")
        logger.warning("run %s could not be opened: %s", self.run_id, error)
        self.opened.set_exception(error)
        self.outcome.set_exception(error)

    async def follow(self, publisher: Publisher) -> None:
        """Take in signals and cancel requests, whoever sent them. In the publisher's loop."""
        wanted = Subscription(
            publisher.log,
            self.run_id,
            filter=make_filter(kinds=("run.signal", "run.cancel_requested")),
            start=make_start(None, None, None),
        )
        await asyncio.wrap_future(self.opened)
        home = self.conductor.home

        def on_closed() -> None:
            self.cancel("its event loop was closed")

        if home is not None:
            publisher.loops.enter(home, on_closed)
        try:
            async for page in wanted.pages():
                for record in page:
                    if record.run_id == self.run_id:
                        self._take_in(record)
        except RunstreamError as error:
            logger.warning("run %s: signals are no longer seen: %s", self.run_id, error)
        except Exception:  # nobody awaits this task
            logger.exception("run %s: signals are no longer seen", self.run_id)
        finally:
            if home is not None:
                publisher.loops.leave(home, on_closed)

    def _take_in(self, record: Record) -> None:
        if record.kind == "run.signal":
            event = signalled(record, self.job.event_classes)
            if event is not None:
                self.job.receive(event)
        elif record.kind == "run.cancel_requested":
            # (What cancelled an earlier turn of a run that was taken up again is not for this one.)
            if record.seq > self.run.opened_at:
                self.cancel(_reason(record.data))
        elif record.is_terminal and self._end is None:
            self.cancel("it was ended by another process")

    # --- the conductor's program -----------------------------------------------------------------

    def start(self, work: Work) -> None:
        self.job.start(work)

    def stop(self, work: Work, attempt: int, timed_out: float | None) -> None:
        self.job.stop(work, attempt, timed_out)

    def stop_body(self) -> None:
        self.job.stop_body()

    def end(self, end: End) -> None:
        self._end = end
        outlet = self.conductor.outlet
        data: dict[str, object] = end.data
        if end.result is not None:
            room = outlet.size_bytes_max - END_SIZE_BYTES
            self._value, data = self.job.result_of(end.result[0], room)
        # (Every part of it is JSON, and within its own limit: the end must not be refused.)
        raw = msgspec.Raw(msgspec.json.encode(data))
        outlet.put_always(Draft(now_us(), self.run_id, end.kind, raw))

    def ended(self, end: End) -> None:
        leaving = self.run.leave()
        if leaving is None:  # in a forked child: the run goes on in the parent
            self._resolve(end, RunLost(f"run {self.run_id!r} goes on in the parent process"))
        else:
            leaving.add_done_callback(lambda done: self._resolve(end, done.result()))

    def _resolve(self, end: End, refusal: Exception | None) -> None:
        self.status = STATUS_BY_KIND[end.kind]
        self.run.publisher.in_progress.discard(self)
        error = self._error(end) if refusal is None else self._loss(refusal)
        if error is None:
            self.outcome.set_result(self._value)
        else:
            self.outcome.set_exception(error)

    def _loss(self, refusal: Exception) -> Exception:
        """Why the run has no end of its own."""
        if isinstance(refusal, (LeaseLost, ProducerFenced, RunEnded)):
            lost = RunLost(f"run {self.run_id!r} was given up or ended by others: {refusal}")
            lost.__cause__ = refusal
            return lost
        return refusal

    def _error(self, end: End) -> BaseException | None:
        """What `await handler` raises: for a failure, the step's own exception."""
        data = end.data
        match end.kind:
            case "run.completed":
                return None
            case "run.failed":
                known = self.conductor.errors.get(end.work)
                error = data["exception"]
                if known is None and error["type"] == StepTimedOut.__name__:
                    known = StepTimedOut(error["message"])
                return known or RunFailed(
                    f"run {self.run_id!r} failed: {error['type']}: {error['message']}", error=error
                )
            case "run.timed_out":
                return RunTimedOut(f"run {self.run_id!r} exceeded its {data['timeout']:g} s")
            case _:
                return RunCancelled(
                    f"run {self.run_id!r} was cancelled"
                    + (f": {data['reason']}" if data.get("reason") else "")
                )


def signalled(record: Record, classes: Collection[type[Event]]) -> Event | None:
    """The event that a signal carries, of one of these classes or else of the newest of its kind; None
    (and a warning) for one that cannot be read.
    """
    data = record.data
    try:
        return event_class(data["type"], tuple(classes)).model_validate(data["event"])
    except (KeyError, TypeError, ValidationError) as error:
        logger.warning("run %s: a signal that cannot be read is ignored: %s", record.run_id, error)
        return None


def _reason(data: Any) -> str | None:
    """Why somebody asks for the end. (The record may be anybody's, and hold anything.)"""
    reason = cast("dict[str, object]", data).get("reason") if isinstance(data, dict) else None
    return reason if isinstance(reason, str) else None


def claimed() -> Future[Any]:
    """A future that whoever waits for it cannot cancel."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


def _look_at(future: asyncio.Future[Any]) -> None:
    """Its error reaches who awaits the run; here it must not be reported as unseen."""
    if not future.cancelled():
        future.exception()
