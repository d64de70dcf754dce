"""Collecting: a step that waits until all of several events are there (`ctx.collect_events`)."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import TypeVar, cast

from .events import Event

E = TypeVar("E", bound=Event)


class Collected:
    """What one attempt added and took, so that it can be undone if the attempt fails."""

    __slots__ = ("added", "buffer", "taken")

    def __init__(self, buffer: Buffer, added: Event, taken: Sequence[Event] | None) -> None:
        self.buffer = buffer
        self.added = added
        self.taken = taken


class Buffer:
    """The events that one step has gathered, by type, in their order."""

    __slots__ = ("by_type", "count")

    def __init__(self) -> None:
        self.by_type: dict[type[Event], deque[Event]] = {}
        self.count = 0

    def add(self, event: Event) -> None:
        self.by_type.setdefault(type(event), deque()).append(event)
        self.count += 1

    def take(self, expected: Sequence[type[Event]]) -> list[Event] | None:
        """The expected events, oldest first of each type; None while one is missing."""
        if self.count < len(expected):
            return None  # the common answer in a wide fan-in, without a look at the types
        for kind, needed in Counter(expected).items():
            if len(self.by_type.get(kind, ())) < needed:
                return None
        self.count -= len(expected)
        return [self.by_type[kind].popleft() for kind in expected]

    def give_back(self, events: Sequence[Event]) -> None:
        for event in reversed(events):
            self.by_type.setdefault(type(event), deque()).appendleft(event)
        self.count += len(events)

    def remove(self, event: Event) -> None:
        there = self.by_type.get(type(event), deque())
        for at, one in enumerate(there):
            if one is event:
                del there[at]
                self.count -= 1
                return


class Collector:
    """The buffers of one run. Safe for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._buffers: dict[str, Buffer] = {}

    def collect(
        self, buffer_id: str, event: E, expected: Sequence[type[E]]
    ) -> tuple[list[E] | None, Collected]:
        """Add the event; all expected ones as soon as they are there, in the expected order."""
        with self._lock:
            buffer = self._buffers.setdefault(buffer_id, Buffer())
            buffer.add(event)
            taken = cast("list[E] | None", buffer.take(expected))
            return taken, Collected(buffer, event, taken)

    def undo(self, collected: Sequence[Collected]) -> None:
        """The attempt failed: its next one will collect again."""
        with self._lock:
            for one in reversed(collected):
                if one.taken is not None:
                    one.buffer.give_back(one.taken)
                one.buffer.remove(one.added)
