"""The mailbox of a run: steps that wait for an event (`ctx.wait_for_event`), and events that came before
anybody waited.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, Final

from pydantic import ValidationError

from .events import Event

# Events that nobody has asked for yet. They come from people and other programs, so they are few.
KEPT_MAX: Final = 1000

logger = logging.getLogger(__name__)


class Waiter:
    """Somebody who waits for one event of a type whose fields have the required values."""

    __slots__ = ("arrived", "event_type", "requirements")

    def __init__(self, event_type: type[Event], requirements: Mapping[str, Any]) -> None:
        self.event_type = event_type
        self.requirements = requirements
        self.arrived: Future[Event] = Future()

    def accepts(self, event: Event) -> bool:
        return isinstance(event, self.event_type) and all(
            getattr(event, name, None) == value for name, value in self.requirements.items()
        )

    def read(self, event: Event) -> Event | None:
        """An event that came before anybody had said which class of its kind is meant, and so is of the
        newest one, as what is waited for; None if it is not that.
        """
        ours = self.event_type
        if not isinstance(event, ours) and type(event).__event_kind__ == ours.__event_kind__:
            try:
                event = ours.model_validate(event.model_dump(exclude_unset=True))
            except ValidationError:
                return None
        return event if self.accepts(event) else None


class Mailbox:
    """Waiters, oldest first, and kept events, oldest first. Safe for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: list[Waiter] = []
        self._kept: deque[Event] = deque()

    def wait(self, waiter: Waiter) -> None:
        """Have `waiter.arrived` get the first matching event, of those that are kept or to come."""
        with self._lock:
            for at, event in enumerate(self._kept):
                found = waiter.read(event)
                if found is not None:
                    del self._kept[at]
                    waiter.arrived.set_result(found)
                    return
            self._waiters.append(waiter)

    def withdraw(self, waiter: Waiter) -> None:
        """The waiter has gone: an event that it got at the same moment is for another one."""
        with self._lock:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
                return
        if waiter.arrived.done() and not waiter.arrived.cancelled():
            self.keep(waiter.arrived.result())

    def offer(self, event: Event) -> bool:
        """Give the event to the oldest waiter that accepts it; False if there is none."""
        with self._lock:
            return self._give(event)

    def keep(self, event: Event) -> None:
        """Keep an event that nobody waits for yet; who has come since it was offered gets it."""
        with self._lock:
            if self._give(event):
                return
            if len(self._kept) >= KEPT_MAX:
                dropped = self._kept.popleft()
                logger.warning(
                    "more than %d events were sent into the run that no step has asked for: "
                    "the oldest, a %s, is dropped",
                    KEPT_MAX,
                    dropped.event_type,
                )
            self._kept.append(event)

    def _give(self, event: Event) -> bool:
        """With the lock held."""
        for waiter in [one for one in self._waiters if one.accepts(event)]:
            self._waiters.remove(waiter)
            # (One that was cancelled in another thread is about to withdraw.)
            if waiter.arrived.set_running_or_notify_cancel():
                waiter.arrived.set_result(event)
                return True
        return False
