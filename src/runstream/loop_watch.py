"""Watching event loops: a step that blocks its loop is reported while it does so, by name.

Nothing in a blocked loop can say so itself, so this looks from the publisher's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from .errors import LogClosed
from .portal import Portal

logger = logging.getLogger(__name__)


class LoopWatch:
    """Asks the loops that run steps for an answer, and warns of one that gives none for `blocked_s`."""

    def __init__(self, portal: Portal, blocked_s: float) -> None:
        self._portal = portal
        self._blocked_s = blocked_s
        # Used in the portal's loop alone: the runs of each loop, and which loops are asked.
        self._users: dict[asyncio.AbstractEventLoop, set[Callable[[], None]]] = {}
        self._silent: set[asyncio.AbstractEventLoop] = set()
        self._told: set[asyncio.AbstractEventLoop] = set()
        self._watching = False

    def enter(self, loop: asyncio.AbstractEventLoop, on_closed: Callable[[], None]) -> None:
        """A run is in that loop; `on_closed` is called if the loop is closed with it. In the portal's
        loop.
        """
        self._users.setdefault(loop, set()).add(on_closed)
        if not self._watching:
            self._watching = True
            self._ask()

    def leave(self, loop: asyncio.AbstractEventLoop, on_closed: Callable[[], None]) -> None:
        """A run in that loop has ended. In the portal's loop."""
        users = self._users.get(loop, set())
        users.discard(on_closed)
        if not users:
            self._users.pop(loop, None)

    def _ask(self) -> None:
        # (A loop may be closed also before it answers.)
        for loop in [one for one in self._users if one.is_closed()]:
            self._end(loop)
        self._silent &= self._users.keys()
        for loop in self._silent - self._told:
            self._warn(loop)
        self._told = self._silent.copy()
        if not self._users:
            self._watching = False
            return
        for loop in self._users.keys() - self._silent:
            try:
                loop.call_soon_threadsafe(self._answer, loop)
            except RuntimeError:  # closed just now
                self._end(loop)
            else:
                self._silent.add(loop)
        with contextlib.suppress(LogClosed):
            self._portal.call_later(self._blocked_s, self._ask)

    def _end(self, loop: asyncio.AbstractEventLoop) -> None:
        """The loop was closed with runs in it, none of which can go on."""
        for on_closed in self._users.pop(loop):
            on_closed()

    def _answer(self, loop: asyncio.AbstractEventLoop) -> None:
        """In the watched loop: it isn't blocked."""
        self._portal.call_soon(self._silent.discard, loop)

    def _warn(self, loop: asyncio.AbstractEventLoop) -> None:
        task = asyncio.current_task(loop)
        what = f"step {task.get_name()!r}" if task is not None else "a callback"
        logger.warning(
            "%s has blocked its event loop for more than %g s: nothing else runs there meanwhile, and "
            "neither a cancel nor a time limit can reach it; make it a plain function, which runs in "
            "a thread",
            what,
            self._blocked_s,
        )
