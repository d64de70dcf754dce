"""The context: what a step of a workflow can do beside its own work."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Generic, Protocol

import msgspec
from typing_extensions import TypeVar

from .collector import Collected, Collector
from .context import Scope
from .errors import InvalidInput
from .events import Event
from .mailbox import Mailbox, Waiter
from .payload import encode_payload
from .record import Draft, now_us
from .state_store import StateStore

E = TypeVar("E", bound=Event)
S = TypeVar("S", default=Any)


class Situation(Protocol):
    """What the contexts of one run share."""

    @property
    def collector(self) -> Collector: ...
    @property
    def mailbox(self) -> Mailbox: ...
    @property
    def store(self) -> StateStore[Any]: ...
    @property
    def event_classes(self) -> set[type[Event]]:
        """The event classes of the run, so that its readers here get these and no namesakes."""
        ...

    def send(self, event: Event, step: str | None) -> None:
        """Route an event. Raises InvalidInput if no step accepts it."""
        ...


class Context(Generic[S]):
    """A step's view of its run: annotate a parameter with `Context`, or `Context[State]`.

    `State` is a class that can be made without arguments; all steps of a workflow share one.
    """

    __slots__ = ("_collected", "_scope", "_situation")

    def __init__(self, situation: Situation, scope: Scope) -> None:
        self._situation = situation
        self._scope = scope
        self._collected: list[Collected] = []

    @property
    def run_id(self) -> str:
        return self._scope.run_id

    @property
    def step(self) -> str | None:
        """The name of the step."""
        return self._scope.step

    @property
    def attempt(self) -> int:
        """Which attempt of the step this is, from 1."""
        return self._scope.attempt or 1

    @property
    def store(self) -> StateStore[S]:
        """The run's state."""
        return self._situation.store

    def write_event_to_stream(self, event: Event | None) -> None:
        """Publish an event. It goes to who follows the run, not to its steps. None is ignored.

        The event is stored as it is now; changing it later changes nothing. A StopEvent written here is
        an ordinary record, and ends nothing.

        Raises:
            InvalidInput: it is no event, or cannot be stored as JSON.
            RunEnded, RunCancelled, StepTimedOut: the step should have ended.
        """
        if event is None:
            return
        if not is_event(event):
            raise InvalidInput(f"an event is written to the stream, not a {type(event).__name__}")
        if event.__event_kind__.startswith("run."):
            raise InvalidInput(f"a {type(event).__name__} is written by Runstream alone")
        scope = self._scope
        control = scope.control
        if control is not None and control.stopped:
            control.check()
        self._situation.event_classes.add(type(event))
        raw = msgspec.Raw(encode_payload(event, size_bytes_max=scope.outlet.size_bytes_max))
        scope.outlet.put(
            Draft(
                now_us(),
                scope.run_id,
                event.__event_kind__,
                raw,
                None,
                scope.step,
                scope.step_run_id,
                scope.attempt,
            )
        )

    def send_event(self, event: Event, step: str | None = None) -> None:
        """Send an event to the steps that accept it, or to one `step`.

        Raises:
            InvalidInput: no step accepts it and none waits for it.
        """
        self._check()
        self._situation.send(event, step)

    def collect_events(
        self, event: E, expected: Sequence[type[E]], buffer_id: str | None = None
    ) -> list[E] | None:
        """Add an event to those that this step has gathered; the expected ones, in the expected order,
        as soon as they are all there, else None. What an attempt that fails has gathered is undone.
        """
        self._check()
        events, collected = self._situation.collector.collect(
            buffer_id or self._scope.step or "", event, expected
        )
        self._collected.append(collected)
        return events

    async def wait_for_event(
        self,
        event_type: type[E],
        *,
        waiter_event: Event | None = None,
        requirements: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> E:
        """Wait for an event from outside (`handler.send_event`) or from another step.

        The step is suspended, and goes on here. `waiter_event` is written to the stream first, as the
        question that the event answers. An event that came before this call is taken, too.

        Args:
            event_type: the class of the event, or one of its base classes.
            waiter_event: an `InputRequiredEvent`, say.
            requirements: the values that its fields must have, if several are waited for at once.
            timeout: seconds; then `TimeoutError`.
        """
        self._check()
        self._situation.event_classes.add(event_type)
        waiter = Waiter(event_type, requirements or {})
        if waiter_event is not None:
            self.write_event_to_stream(waiter_event)
        mailbox = self._situation.mailbox
        mailbox.wait(waiter)
        try:
            async with asyncio.timeout(timeout):
                event = await asyncio.wrap_future(waiter.arrived)
        except BaseException:
            mailbox.withdraw(waiter)
            raise
        assert isinstance(event, event_type)  # noqa: S101 - what the waiter accepts
        return event

    def undo_collecting(self) -> None:
        """For the runner: the attempt has failed."""
        collected, self._collected = self._collected, []
        self._situation.collector.undo(collected)

    def _check(self) -> None:
        control = self._scope.control
        if control is not None and control.stopped:
            control.check()


def is_event(value: object) -> bool:
    """Whether a caller without a type checker gave an event."""
    return isinstance(value, Event)
