"""The graph of a workflow: which step gets which event, and whether that can work at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import InvalidInput
from .events import Event, HumanResponseEvent, InputRequiredEvent, StartEvent, StopEvent
from .signature import Signature
from .step import Step
from .ticks import StepPlan
from .workflow_context import Context


@dataclass(frozen=True, slots=True)
class RoutedStep:
    """A step in its place: bound to its workflow, its annotations read."""

    name: str
    function: Callable[..., Any]
    is_async: bool
    plan: StepPlan
    signature: Signature
    accepts: tuple[type[Event], ...]
    accept_subclasses: bool

    def call(self, context: Context[Any], event: Event) -> Any:
        """Call the function with what it takes."""
        signature = self.signature
        if signature.context is None:
            return self.function(event)
        if signature.context_first:
            return self.function(context, event)
        return self.function(event, context)

    def takes(self, event_type: type[Event]) -> bool:
        if self.accept_subclasses:
            return issubclass(event_type, self.accepts)
        return event_type in self.accepts


class Graph:
    """The steps of a workflow and the routes between them.

    Raises:
        InvalidInput: a step cannot be routed to; or, unless `check` is False, an event has no producer or
            no consumer. The message names the step and the event.
    """

    def __init__(
        self, workflow: str, steps: Iterable[Step[..., Any]], *, check: bool = True
    ) -> None:
        self.workflow = workflow
        self.steps: dict[str, RoutedStep] = {}
        for one in steps:
            if one.name in self.steps:
                raise InvalidInput(f"the workflow {workflow!r} has two steps named {one.name!r}")
            self.steps[one.name] = self._place(one)
        self._routes: dict[type[Event], tuple[str, ...]] = {}
        self._take_start_event()
        self.state = self._find_state()
        if check:
            self._check()

    @property
    def plans(self) -> Mapping[str, StepPlan]:
        return {name: step.plan for name, step in self.steps.items()}

    @property
    def start_type(self) -> type[StartEvent]:
        """The class of the event that a run begins with."""
        for step in self.steps.values():
            for event_type in step.accepts:
                if issubclass(event_type, StartEvent):
                    return event_type
        return StartEvent

    @property
    def event_classes(self) -> set[type[Event]]:
        """The classes that the steps accept and return."""
        accepted = {kind for step in self.steps.values() for kind in step.accepts}
        return accepted | self._produced()

    @property
    def waits_outside(self) -> bool:
        """Whether an event from outside can move a run in which no step is at work."""
        if any(step.signature.produces is None for step in self.steps.values()):
            produced: set[type[Event]] | None = None
        else:
            produced = self._produced()
        return any(
            issubclass(kind, HumanResponseEvent)
            or (produced is not None and kind not in produced and not issubclass(kind, StartEvent))
            for step in self.steps.values()
            for kind in step.accepts
        )

    def route(self, event: Event) -> tuple[str, ...]:
        """The names of the steps that accept the event."""
        event_type = type(event)
        names = self._routes.get(event_type)
        if names is None:
            names = tuple(name for name, step in self.steps.items() if step.takes(event_type))
            self._routes[event_type] = names
        return names

    def _place(self, step: Step[..., Any]) -> RoutedStep:
        signature = step.signature
        faults = signature.faults
        if signature.event is None:
            faults = (*faults, "it has no parameter that is annotated with an event")
        if faults:
            raise InvalidInput(f"step {step.name!r} of {self.workflow!r}: {'; '.join(faults)}")
        return RoutedStep(
            step.name,
            step.function,
            step.is_async,
            step.plan,
            signature,
            signature.accepts,
            step.accept_subclasses,
        )

    def _take_start_event(self) -> None:
        """A sole entry step that takes `Event` means the StartEvent."""
        starts = [step for step in self.steps.values() if any(map(_is_start, step.accepts))]
        open_ones = [step for step in self.steps.values() if step.accepts == (Event,)]
        if not starts and len(open_ones) == 1:
            only = open_ones[0]
            self.steps[only.name] = RoutedStep(
                only.name,
                only.function,
                only.is_async,
                only.plan,
                only.signature,
                (StartEvent,),
                only.accept_subclasses,
            )

    def _find_state(self) -> type | None:
        states = {step.signature.state for step in self.steps.values()} - {None}
        if len(states) > 1:
            names = " and ".join(sorted(state.__name__ for state in states if state))
            raise InvalidInput(
                f"the steps of {self.workflow!r} share one state, but name {names} for it"
            )
        return states.pop() if states else None

    # --- the check -------------------------------------------------------------------------------

    def _check(self) -> None:
        if not self.steps:
            raise InvalidInput(f"the workflow {self.workflow!r} has no steps")
        starts = {kind for step in self.steps.values() for kind in step.accepts if _is_start(kind)}
        if not starts:
            raise InvalidInput(
                f"no step of {self.workflow!r} accepts a StartEvent: none could begin"
            )
        if len(starts) > 1:
            names = ", ".join(sorted(kind.__name__ for kind in starts))
            raise InvalidInput(
                f"the steps of {self.workflow!r} begin with different events: {names}"
            )
        self._check_consumers()
        if all(step.signature.produces is not None for step in self.steps.values()):
            # (What a step without a return annotation produces is not known.)
            self._check_producers()

    def _check_consumers(self) -> None:
        for step in self.steps.values():
            for kind in step.signature.produces or ():
                if issubclass(kind, (StopEvent, InputRequiredEvent)):
                    continue
                if not any(other.takes(kind) for other in self.steps.values()):
                    raise InvalidInput(
                        f"step {step.name!r} of {self.workflow!r} returns {kind.__name__}, "
                        "which no step accepts"
                    )

    def _check_producers(self) -> None:
        produced = self._produced()
        if not any(issubclass(kind, StopEvent) for kind in produced):
            raise InvalidInput(
                f"no step of {self.workflow!r} returns a StopEvent: it would never end"
            )
        for step in self.steps.values():
            for kind in step.accepts:
                if issubclass(kind, (StartEvent, HumanResponseEvent)):
                    continue
                if not any(self._satisfies(step, kind, other) for other in produced):
                    raise InvalidInput(
                        f"step {step.name!r} of {self.workflow!r} accepts {kind.__name__}, "
                        "which no step returns (one that sends it says so in its return annotation)"
                    )

    @staticmethod
    def _satisfies(step: RoutedStep, wanted: type[Event], produced: type[Event]) -> bool:
        return produced is wanted or (step.accept_subclasses and issubclass(produced, wanted))

    def _produced(self) -> set[type[Event]]:
        return {kind for step in self.steps.values() for kind in step.signature.produces or ()}


def _is_start(kind: type[Event]) -> bool:
    return issubclass(kind, StartEvent)
