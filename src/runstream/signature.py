"""What a step's annotations say: which parameter takes the context and which the event, which events it
accepts, and which it returns.
"""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, cast

from .events import Event
from .workflow_context import Context

_NAMES = re.compile(r"[^\W\d]\w*")


class Unknown(str):
    """An annotation that names what cannot be found."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Signature:
    """A step's annotations, read.

    `produces` is None where the annotation doesn't say which events (no annotation, `Event`, `Any`).
    `state` is the class of `Context[State]`. `faults` says what is wrong with a step that shall be routed.
    """

    context: str | None
    event: str | None
    context_first: bool
    accepts: tuple[type[Event], ...]
    produces: tuple[type[Event], ...] | None
    state: type | None
    faults: tuple[str, ...]

    @property
    def is_routed(self) -> bool:
        """Whether the step has a Context or Event parameter, so that events are routed to it."""
        return self.context is not None or self.event is not None


def local_names(function: Callable[..., Any], frame: FrameType | None) -> dict[str, Any]:
    """What the function's annotations, as text, name in the functions and classes around it.

    `typing` finds names of modules alone.
    """
    texts = [text for text in annotations_of(function).values() if isinstance(text, str)]
    wanted = {name for text in texts for name in _NAMES.findall(text)}
    found: dict[str, Any] = {}
    namespace = getattr(function, "__globals__", None)
    while wanted and frame is not None and frame.f_globals is namespace:
        if frame.f_locals is not namespace:
            found.update(
                {
                    name: frame.f_locals[name]
                    for name in wanted & frame.f_locals.keys() - found.keys()
                }
            )
        frame = frame.f_back
    return found


def annotations_of(function: Callable[..., Any]) -> dict[str, Any]:
    return dict(getattr(function, "__annotations__", {}))


def read_signature(function: Callable[..., Any], names: dict[str, Any]) -> Signature:
    """Read a function's annotations; `names` are those that its module doesn't have."""
    hints = {
        name: _resolve(annotation, function, names)
        for name, annotation in annotations_of(function).items()
    }
    context = event = state = None
    context_first = True
    accepts: tuple[type[Event], ...] = ()
    faults: list[str] = []
    for name, parameter in inspect.signature(function).parameters.items():
        hint = hints.get(name)
        if _is_context(hint):
            context, context_first = name, event is None
            state = next((arg for arg in typing.get_args(hint) if isinstance(arg, type)), None)
        elif _events_in(hint):
            event, accepts = name, _events_in(hint)
        elif isinstance(hint, Unknown):
            faults.append(f"its parameter {name!r} is a {hint}, which cannot be found")
        elif parameter.default is parameter.empty and (hint is not None or name != "self"):
            faults.append(f"its parameter {name!r} is neither a Context nor an Event")
    produces = None
    if "return" in hints:
        produces, fault = _produced(hints["return"])
        faults += [fault] if fault else []
    return Signature(context, event, context_first, accepts, produces, state, tuple(faults))


def _resolve(annotation: Any, function: Callable[..., Any], names: dict[str, Any]) -> Any:
    holder = types.SimpleNamespace(__annotations__={"it": annotation})
    try:
        hints = typing.get_type_hints(
            holder, globalns=getattr(function, "__globals__", {}), localns=names
        )
    except (NameError, AttributeError):
        return Unknown(annotation if isinstance(annotation, str) else repr(annotation))
    except TypeError:  # an annotation that is no type
        return None
    return hints["it"]


def _is_context(hint: Any) -> bool:
    return (typing.get_origin(hint) or hint) is Context


def _members(hint: Any) -> Iterator[Any]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for arg in typing.get_args(hint):
            yield from _members(arg)
    else:
        yield hint


def _events_in(hint: Any) -> tuple[type[Event], ...]:
    """The event classes of an annotation; none if it has other members, too."""
    members = [member for member in _members(hint) if member is not type(None)]
    if members and all(isinstance(one, type) and issubclass(one, Event) for one in members):
        return tuple(members)
    return ()


def _produced(hint: Any) -> tuple[tuple[type[Event], ...] | None, str | None]:
    produced: list[type[Event]] = []
    for member in _members(hint):
        if member is None or member is type(None):
            continue
        if typing.get_origin(member) is list:
            inner, fault = _produced(typing.get_args(member)[0])
            if inner is None:
                return None, fault
            produced += inner
        elif member is Any or member is Event or member is typing.NoReturn:
            return None, None
        elif isinstance(member, type) and issubclass(member, Event):
            produced.append(member)
        elif isinstance(member, Unknown):
            return None, f"it returns a {member}, which cannot be found"
        else:
            return None, f"it returns {_name(cast(object, member))}, which is no event"
    return tuple(produced), None


def caller_frame(depth: int) -> FrameType | None:
    """The frame `depth` calls above the caller of this, where Python has frames."""
    frame = inspect.currentframe()
    for _ in range(depth + 1):
        frame = frame.f_back if frame is not None else None
    return frame


def _name(hint: object) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
