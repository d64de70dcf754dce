"""Typed events: what a workflow emits and routes.

An event is a pydantic v2 model that keeps unknown fields. Its kind is its class name unless the class
says otherwise: `class Progress(Event, kind="progress")`. Events that came out of a stream also know the
record they came from (`.record`), without taking that name from a user's field.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict

from .errors import InvalidInput

# Kinds are sent as the SSE `event:` field and typed into filters: short, on one line.
NAME_LENGTH_MAX = 128
# Prefixes of the kinds that only Runstream itself writes.
RESERVED_PREFIXES = ("run.", "step.", "task.", "stream.")

_ONE_LINE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def check_name(name: object, what: str) -> str:
    """Return `name` if it can name a `what` (kind, topic, step, …) in a stream and on the wire.

    Raises:
        InvalidInput: not a string, empty, too long, or with control characters or lone surrogates.
    """
    if not isinstance(name, str):
        raise InvalidInput(f"a {what} must be a string, not {type(name).__name__}")
    name = str.__str__(name)  # of an enum's member, its value
    if not name:
        raise InvalidInput(f"a {what} must not be empty")
    if len(name) > NAME_LENGTH_MAX:
        raise InvalidInput(f"a {what} has at most {NAME_LENGTH_MAX} characters, not {len(name)}")
    if not _ONE_LINE.fullmatch(name):
        raise InvalidInput(f"a {what} must not hold control characters or surrogates: {name!r}")
    return name


class Envelope(Protocol):
    """What an event can say of the record that it came from."""

    @property
    def seq(self) -> int: ...
    @property
    def time(self) -> datetime: ...
    @property
    def run_id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def step(self) -> str | None: ...
    @property
    def cursor(self) -> str: ...


class Event(BaseModel):
    """A typed thing that happened. Subclass it; unknown fields are kept.

    `event_type` is the kind; `record` the record that it was read from (None for one made here). Both
    give way to a field of the same name.
    """

    # NaN must reach our own check as the literal that it is, instead of turning into null.
    model_config = ConfigDict(
        extra="allow", ser_json_inf_nan="constants", arbitrary_types_allowed=True
    )
    __slots__ = ("__event_record__",)
    __event_kind__: ClassVar[str] = "Event"
    # What to do about a field that is not there.
    __missing_field__: ClassVar[str] = ""
    # The newest class of each kind, for `Record.as_event()`.
    __event_classes__: ClassVar[dict[str, type[Event]]] = {}

    def __init_subclass__(cls, *, kind: str | None = None, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls.__event_kind__ = check_name(cls.__name__ if kind is None else kind, "kind")
        if kind is not None and kind.startswith(RESERVED_PREFIXES) and cls.__module__ != __name__:
            raise InvalidInput(
                f"the kind {kind!r} of {cls.__name__} is reserved: kinds that begin with "
                f"{', '.join(RESERVED_PREFIXES)} are written by Runstream alone"
            )
        Event.__event_classes__[cls.__event_kind__] = cls

    def __getattr__(self, name: str) -> Any:
        # Only reached when there is no such field, and an extra one goes first: the user's own wins.
        if name in ("event_type", "record") and name not in (self.model_extra or ()):
            record: Envelope | None = getattr(self, "__event_record__", None)
            if name == "record":
                return record
            # A record of a kind that has no class here is still of that kind.
            return record.kind if record and type(self) is Event else type(self).__event_kind__
        # Extra fields and private attributes; pydantic hides this method from type checkers.
        try:
            return super().__getattr__(name)  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType, reportUnknownVariableType]
        except AttributeError:
            hint = type(self).__missing_field__
            raise AttributeError(
                f"the event {type(self).__name__!r} has no field {name!r}{hint}"
            ) from None


class StartEvent(Event):
    """The input of a run: the keyword arguments of `run(...)` become its fields."""

    __missing_field__: ClassVar[str] = ": give it to `run(...)`, or to `runstream run` with --input"


class StopEvent(Event):
    """The result of a run. Written to the stream by a step it is an ordinary record."""

    result: Any = None


class InputRequiredEvent(Event):
    """A step needs an answer from a person; fields are free, `prefix` is shown as the question."""

    prefix: str = ""


class HumanResponseEvent(Event):
    """A person's answer; fields are free, `response` is what a prompt fills in."""

    response: Any = None


class WorkflowTimedOutEvent(StopEvent, kind="run.timed_out"):
    """The run exceeded its time limit of `timeout` seconds while `active_steps` were running."""

    timeout: float = 0.0
    active_steps: list[str] = []


class WorkflowCancelledEvent(StopEvent, kind="run.cancelled"):
    """The run was cancelled while `active_steps` were running."""

    reason: str | None = None
    active_steps: list[str] = []


class WorkflowFailedEvent(StopEvent, kind="run.failed"):
    """A step failed for good. `exception` holds the error's `type` and `message`."""

    step_name: str | None = None
    exception: Any = None
    attempts: int | None = None
    elapsed_seconds: float | None = None


class WorkflowLostEvent(StopEvent, kind="run.lost"):
    """The run's process vanished; the log ended the run in its place."""

    reason: str = ""


class WorkflowCompletedEvent(StopEvent, kind="run.completed"):
    """The run ended with `result`."""


def event_class(kind: str, among: Iterable[type[Event]] = ()) -> type[Event]:
    """The class of a kind: one of `among`, else the newest; `Event` itself for a kind of no class."""
    for candidate in among:
        if candidate.__event_kind__ == kind:
            return candidate
    return Event.__event_classes__.get(kind, Event)
