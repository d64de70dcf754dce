"""The conductor: one run's engine at work. It feeds the reducer, writes the lifecycle records that come out
of it, keeps its timers, and runs the steps that are called as functions.

Any thread may feed it: one lock makes the ticks a sequence, and records are queued under it, so their
order is the engine's. Timers live in the publisher's loop, which goes on when the caller's is blocked.
"""

from __future__ import annotations

import asyncio
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, Protocol

import msgspec

from . import process
from .context import Outlet, UnitOfWork
from .engine import reduce
from .errors import RunCancelled, RunEnded, RunstreamError
from .payload import exception_payload
from .portal import Portal
from .record import Draft, now_us
from .run_state import Plan, RunState
from .step_future import StepFuture
from .ticks import (
    Called,
    CancelAsked,
    ChildBegun,
    ChildEnded,
    ClearTimer,
    Command,
    Due,
    End,
    Failed,
    SetTimer,
    Start,
    Stop,
    StopBody,
    StopChild,
    Tick,
    Timer,
    Work,
    Write,
)

logger = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode

# Errors of called steps that are remembered: a body fails with one of its last.
BLAMED_MAX: Final = 64
# Submitted steps are looked through, for those that are over, when there are this many, and twice as many.
SUBMITTED_MIN: Final = 256


class Program(Protocol):
    """What a conductor runs beside called steps: the steps of a workflow, or a pipeline's body."""

    def start(self, work: Work) -> None: ...
    def stop(self, work: Work, attempt: int, timed_out: float | None) -> None: ...
    def stop_body(self) -> None: ...
    def end(self, end: End) -> None:
        """Write the terminal record; called once, under the conductor's lock."""
        ...

    def ended(self, end: End) -> None:
        """The terminal record is queued."""
        ...


class Callee(Protocol):
    """A called step that is under way."""

    def start(self) -> None:
        """Make the next attempt (or see that there is none any more)."""
        ...

    def stop(self, timed_out: float | None) -> None: ...


class Conductor:
    """One run's engine in this process."""

    def __init__(
        self,
        plan: Plan,
        *,
        run_id: str,
        outlet: Outlet,
        portal: Portal,
        program: Program | None = None,
    ) -> None:
        self.run_id = run_id
        self.outlet = outlet
        self.state = RunState(plan, f"{random.getrandbits(32):08x}.")
        # Steps that were submitted, in that order; those that are over and were asked go from time to time.
        self._submitted: list[StepFuture[Any]] = []
        self._submitted_max = SUBMITTED_MIN
        # The last error of a step, by its work; what the run's end is about.
        self.errors: dict[int, BaseException] = {}
        # The errors that called steps ended with, so that a body which fails with one can name the step.
        self.blamed: deque[tuple[BaseException, str, int]] = deque(maxlen=BLAMED_MAX)
        self.home: asyncio.AbstractEventLoop | None = None
        self._program = program
        self._portal = portal
        self._lock = threading.Lock()
        self._timers: dict[Timer, asyncio.TimerHandle] = {}
        self._callees: dict[int, Callee] = {}
        self._children: dict[str, Callable[[], None]] = {}
        self._refusal: RunstreamError | None = None
        self._own_loop: Portal | None = None
        self._armed = False

    # --- the engine ------------------------------------------------------------------------------

    def feed(self, tick: Tick) -> None:
        """Take a tick in and carry out what comes of it. Any thread."""
        with self._lock:
            commands = reduce(self.state, tick)
            refusal = self._write_all(commands)
        for command in commands:
            self._carry_out(command)
        if refusal is not None:
            self._refused(refusal)

    def begin(self, unit: UnitOfWork, callee: Callee) -> Work:
        """A step is called. Raises RunCancelled or RunEnded once the run is ending."""
        with self._lock:
            commands = reduce(self.state, Called(time.monotonic(), unit.plan))
            refusal = self._write_all(commands)
            work = next((one.work for one in commands if isinstance(one, Start)), None)
            if work is not None:
                self._callees[work.id] = callee
        if refusal is not None:
            self._refused(refusal)
        if work is None:
            if self.state.phase == "ended":
                raise RunEnded(f"run {self.run_id!r} has ended")
            raise RunCancelled(f"run {self.run_id!r} is ending: {unit.plan.name!r} isn't started")
        for command in commands:
            if isinstance(command, SetTimer):
                self._carry_out(command)
        return work

    def fail(
        self, work: Work, attempt: int, error: BaseException, *, for_good: bool = False
    ) -> None:
        """An attempt raised; `for_good`: another one would raise it, too."""
        retry = work.step.retry
        self.errors[work.id] = error
        self.feed(
            Failed(
                time.monotonic(),
                work.id,
                attempt,
                exception_payload(error),
                retryable=not for_good and retry is not None and retry.covers(type(error)),
                noise=random.random(),  # noqa: S311 - spreads retries; nobody gains by guessing it
            )
        )
        if self.state.end is None or self.state.end.work != work.id:
            self.errors.pop(work.id, None)

    def keep(self, future: StepFuture[Any]) -> None:
        """A step was submitted: the run's body waits for it, unless somebody has done so before."""
        with self._lock:
            self._submitted.append(future)
            if len(self._submitted) > self._submitted_max:
                self._submitted = [one for one in self._submitted if not (one.asked and one.done())]
                self._submitted_max = max(SUBMITTED_MIN, 2 * len(self._submitted))

    def unasked(self) -> list[StepFuture[Any]]:
        """The submitted steps whose outcome nobody has looked at yet, oldest first."""
        with self._lock:
            return [one for one in self._submitted if not one.asked]

    def done_with(self, work: Work) -> None:
        """The called step has ended, for its caller, too."""
        self._callees.pop(work.id, None)

    def _write_all(self, commands: list[Command]) -> RunstreamError | None:
        """Under the lock. The refusal, if the log takes this run's records no more."""
        try:
            for command in commands:
                if type(command) is Write:
                    work = command.work
                    self.outlet.put_always(
                        Draft(
                            now_us(),
                            self.run_id,
                            command.kind,
                            msgspec.Raw(_encode(command.data)),
                            None,
                            work.step.name,
                            work.step_run_id,
                            command.attempt,
                        )
                    )
                elif type(command) is End and self._program is not None:
                    self._program.end(command)
        except RunstreamError as error:
            return error
        return None

    def _refused(self, error: RunstreamError) -> None:
        """The run was lost, fenced or ended by others: what still runs of it here must stop."""
        if self._refusal is None:
            self._refusal = error
            self.feed(CancelAsked(time.monotonic(), f"its records are refused: {error}"))

    def _carry_out(self, command: Command) -> None:
        match command:
            case Start(work=work):
                self._start(work)
            case Stop():
                self._stop(command)
            case SetTimer():
                self._armed = True
                self._portal.call_soon(self._arm, command.timer, command.at)
            case ClearTimer(timer=Timer(work=work_id)) if work_id:
                # (The run's own timers go with its end.)
                self._portal.call_soon(self._disarm, command.timer)
            case StopBody() | StopChild():
                self._stop_other(command)
            case End():
                self._ended(command)
            case _:
                pass  # written already

    def _stop_other(self, command: StopBody | StopChild) -> None:
        if isinstance(command, StopChild):
            cancel = self._children.get(command.run_id)
            if cancel is not None:
                cancel()
        elif self._program is not None:
            self._program.stop_body()

    def _ended(self, end: End) -> None:
        if self._armed:
            self._portal.call_soon(self._disarm_all)
        if self._own_loop is not None:
            process.threads().run(self._own_loop.close)
        if self._program is not None:
            self._program.ended(end)

    def _start(self, work: Work) -> None:
        if work.routed:
            if self._program is not None:
                self._program.start(work)
            return
        callee = self._callees.get(work.id)
        if callee is not None:
            callee.start()

    def _stop(self, command: Stop) -> None:
        work = command.work
        if work.routed:
            if self._program is not None:
                self._program.stop(work, command.attempt, command.timed_out)
            return
        callee = self._callees.get(work.id)
        if callee is not None:
            callee.stop(command.timed_out)

    # --- timers, in the portal's loop ------------------------------------------------------------

    def _arm(self, timer: Timer, at: float) -> None:
        loop = asyncio.get_running_loop()
        delay = max(at - time.monotonic(), 0.0)
        self._timers[timer] = loop.call_later(delay, self._ring, timer)

    def _ring(self, timer: Timer) -> None:
        self._timers.pop(timer, None)
        noise = random.random()  # noqa: S311 - as above
        self.feed(Due(time.monotonic(), timer, noise))

    def _disarm(self, timer: Timer) -> None:
        handle = self._timers.pop(timer, None)
        if handle is not None:
            handle.cancel()

    def _disarm_all(self) -> None:
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()

    # --- child runs ------------------------------------------------------------------------------

    def adopt(self, run_id: str, cancel: Callable[[], None], ended: Future[Any]) -> None:
        """A child run began in this process: `cancel` cancels it, `ended` is done when it has ended."""
        self._children[run_id] = cancel
        self.feed(ChildBegun(time.monotonic(), run_id))

        def gone(_: Future[Any]) -> None:
            self._children.pop(run_id, None)
            self.feed(ChildEnded(time.monotonic(), run_id))

        ended.add_done_callback(gone)

    # --- loops -----------------------------------------------------------------------------------

    def run_beside(self, step: Coroutine[Any, Any, Any]) -> Future[Any]:
        """Run an async step that plain code submits: in the run's own loop, else in one made for it."""
        if self.home is not None:
            return asyncio.run_coroutine_threadsafe(step, self.home)
        with self._lock:
            if self._own_loop is None:
                self._own_loop = Portal("runstream-steps")
        return self._own_loop.submit(step)
