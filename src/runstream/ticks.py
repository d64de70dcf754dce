"""What happens to a run (ticks) and what is to be done about it (commands), as plain data.

`now` is the caller's monotonic clock in seconds, `noise` a random number from 0 to 1: the engine has
neither a clock nor chance of its own, so the same ticks always give the same commands.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from .retry import Retry

# What a timer is for: the run's limit, the end of a cancel's grace, an attempt's limit, a retry's pause.
TimerKind = Literal["run", "grace", "attempt", "retry"]


class StepPlan(msgspec.Struct, frozen=True):
    """What the engine knows of a step. `num_workers` of None: as many as are asked for."""

    name: str
    num_workers: int | None = None
    retry: Retry | None = None
    timeout: float | None = None


class Work(msgspec.Struct, eq=False):
    """One piece of work of a step: an event that it accepted, or a call. Changed by the engine alone."""

    id: int
    step: StepPlan
    step_run_id: str
    # What it works on: the event that was routed to the step, None for a call.
    event: Any
    routed: bool
    begun: float
    attempt: int = 1
    state: Literal["running", "delayed", "stopping", "done"] = "running"


class Timer(msgspec.Struct, frozen=True):
    """A timer's name. An attempt's timer that comes late finds another attempt, and does nothing."""

    kind: TimerKind
    work: int = 0
    attempt: int = 0


# --- ticks ---------------------------------------------------------------------------------------


class Begun(msgspec.Struct):
    """The run begins, with an event to route or with a body (a pipeline's function) that runs."""

    now: float
    event: Any = None
    body: bool = False


class Sent(msgspec.Struct):
    """An event for the steps that accept it, or for one `step` alone."""

    now: float
    event: Any
    step: str | None = None


class Called(msgspec.Struct):
    """A step was called as a function. The answer is its `Start`; None once the run is ending."""

    now: float
    step: StepPlan


class Finished(msgspec.Struct):
    """An attempt returned: `events` to route, or `stop`, the run's result (whatever it is, boxed)."""

    now: float
    work: int
    attempt: int
    data: dict[str, Any]
    events: tuple[Any, ...] = ()
    stop: tuple[Any] | None = None


class Failed(msgspec.Struct):
    """An attempt raised; `retryable` says whether the step's `Retry` covers the error."""

    now: float
    work: int
    attempt: int
    error: dict[str, str]
    retryable: bool = False
    noise: float = 0.0


class Halted(msgspec.Struct):
    """An attempt ended because it was cancelled."""

    now: float
    work: int
    attempt: int


class Due(msgspec.Struct):
    """A timer ran out."""

    now: float
    timer: Timer
    noise: float = 0.0


class CancelAsked(msgspec.Struct):
    """Somebody wants the run to end now."""

    now: float
    reason: str | None = None


class ChildBegun(msgspec.Struct):
    """A child run began in this process."""

    now: float
    run_id: str


class ChildEnded(msgspec.Struct):
    """A child run's terminal record is written."""

    now: float
    run_id: str


class BodyFinished(msgspec.Struct):
    """The pipeline's function returned."""

    now: float
    result: Any = None


class BodyFailed(msgspec.Struct):
    """The pipeline's function raised; the step whose error it is, if it is one's."""

    now: float
    error: dict[str, str]
    step: str | None = None
    attempts: int | None = None


class BodyHalted(msgspec.Struct):
    """The pipeline's function ended because it was cancelled."""

    now: float
    reason: str | None = None


Tick = (
    Begun
    | Sent
    | Called
    | Finished
    | Failed
    | Halted
    | Due
    | CancelAsked
    | ChildBegun
    | ChildEnded
    | BodyFinished
    | BodyFailed
    | BodyHalted
)


# --- commands ------------------------------------------------------------------------------------


class Write(msgspec.Struct):
    """Write a lifecycle record of a step's attempt."""

    kind: str
    work: Work
    attempt: int
    data: dict[str, Any]


class Start(msgspec.Struct):
    """Start the work's present attempt."""

    work: Work


class Stop(msgspec.Struct):
    """Stop an attempt; `timed_out` after that many seconds, else the run is ending."""

    work: Work
    attempt: int
    timed_out: float | None = None


class StopBody(msgspec.Struct):
    """Stop the pipeline's function."""


class StopChild(msgspec.Struct):
    """Cancel a child run."""

    run_id: str


class SetTimer(msgspec.Struct):
    """Send `Due` at that time."""

    timer: Timer
    at: float


class ClearTimer(msgspec.Struct):
    """The timer is no longer of interest."""

    timer: Timer


class End(msgspec.Struct):
    """Write the run's terminal record; nothing follows it. `result` is what `stop` brought, boxed;
    `work` the one whose error it is (0: the body's).
    """

    kind: str
    data: dict[str, Any]
    result: tuple[Any] | None = None
    work: int = 0


Command = Write | Start | Stop | StopBody | StopChild | SetTimer | ClearTimer | End
