"""The context: which run, step and attempt the running code belongs to.

One context variable holds it, so it follows `await`, tasks, our threads and whatever `bind` wraps.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import RunstreamError
from .record import Draft
from .settings import ChildRun
from .step_future import StepFuture
from .ticks import StepPlan


class Outlet(Protocol):
    """Where records of a run go (the run's outbox in this process)."""

    @property
    def url(self) -> str: ...
    @property
    def root_run_id(self) -> str: ...
    @property
    def size_bytes_max(self) -> int: ...
    @property
    def closed_by(self) -> RunstreamError | None: ...

    def put(self, draft: Draft, priority: bool = False) -> None:
        """Queue a user's record, under the outbox's overflow policy."""
        ...

    def put_always(self, draft: Draft) -> None:
        """Queue a record that must not be lost (lifecycle, a task's start and end)."""
        ...

    def offer(self, draft: Draft) -> bool:
        """Queue a record if there is room."""
        ...

    def put_latest(self, draft: Draft) -> Slot:
        """Queue, whether there is room or not, a record that later ones may replace until it is sent."""
        ...

    def ticket(self) -> Future[bool]:
        """True once everything queued before is stored, False once it cannot be."""
        ...

    async def wait_room(self) -> None:
        """Wait until `offer` would find room. Safe to cancel."""
        ...


class Slot(Protocol):
    """A queued record that may still be replaced."""

    def replace(self, draft: Draft) -> bool:
        """Put `draft` in its place; False once it is on its way (or must stay as it is)."""
        ...

    def settle(self) -> None:
        """Keep it as it is: a later record builds on it."""
        ...


class UnitOfWork(Protocol):
    """A step as seen by who runs it: a function and how it is to be run."""

    @property
    def function(self) -> Callable[..., Any]: ...
    @property
    def is_async(self) -> bool: ...
    @property
    def plan(self) -> StepPlan: ...


class Control(Protocol):
    """Who runs a scope's code: says when it must stop, and runs the steps that it calls."""

    # Looked at before each record.
    stopped: bool

    def check(self) -> None:
        """Raises why the code must stop, if it must."""
        ...

    def call(self, unit: UnitOfWork, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a step as part of the run: its result, or for an async one an awaitable of it."""
        ...

    def submit(
        self, unit: UnitOfWork, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> StepFuture[Any]:
        """Start a step beside the calling code."""
        ...

    def adopt(self, run_id: str, cancel: Callable[[], None], ended: Future[Any]) -> None:
        """A child run began: it is cancelled with this one, which ends after it."""
        ...


@dataclass(frozen=True, slots=True)
class Scope:
    """The run and, inside a step, the step and attempt that records are attributed to."""

    outlet: Outlet
    run_id: str
    step: str | None = None
    step_run_id: str | None = None
    attempt: int | None = None
    task_id: str | None = None
    control: Control | None = None

    def as_child_run(self) -> ChildRun:
        """What a subprocess must know to publish here."""
        return ChildRun(
            self.outlet.url,
            self.run_id,
            self.outlet.root_run_id,
            self.step,
            self.step_run_id,
            self.attempt,
        )


current_scope: ContextVar[Scope | None] = ContextVar("runstream_scope", default=None)
