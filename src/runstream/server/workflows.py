"""The workflows that a server starts, and their runs, which outlive the requests that began them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Iterable
from typing import Any, Final

from ..api import WorkflowBody
from ..errors import InvalidInput, RunstreamError, WorkflowNotFound
from ..handler import Handler
from ..invocation import Target, input_schema, start_target
from ..workflow import Workflow

# A run that was told to cancel because the server goes has this long to tell how it ended.
CANCEL_S: Final = 2.0
STOPPING: Final = "the server that ran it is stopping"

logger = logging.getLogger(__name__)


class Workflows:
    """Those that one server was given, and their runs under way.

    Raises (when made):
        InvalidInput: two of one name, or one that cannot work.
    """

    def __init__(self, targets: Iterable[Target] = (), *, url: str | None = None) -> None:
        self._url = url
        self._targets: dict[str, Target] = {}
        self._running: set[Handler] = set()
        self._watching: set[asyncio.Task[None]] = set()
        for target in targets:
            if target.name in self._targets:
                raise InvalidInput(f"two workflows are called {target.name!r}: name one of them")
            if isinstance(target, Workflow):
                _ = target.graph  # checked now, not when somebody starts it
            self._targets[target.name] = target
        if self._targets and url is None:
            raise InvalidInput("a server that starts workflows needs its log as a URL")

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be started."""
        return not self._targets

    def bodies(self) -> list[WorkflowBody]:
        return [
            WorkflowBody(
                name=name, description=_described(target), input_schema=input_schema(target)
            )
            for name, target in self._targets.items()
        ]

    async def start(self, name: str, given: dict[str, Any], run_id: str | None) -> Handler:
        """A run under way, its opening awaited; cancelling this does not end it.

        Raises:
            WorkflowNotFound: the server was not given it.
            InvalidInput: the input does not fit.
            RunEnded, LeaseHeld: a run of that id is there.
        """
        target = self._targets.get(name)
        if target is None:
            raise WorkflowNotFound(f"this server starts no workflow {name!r}")
        # In a thread without a loop, so that the run gets a loop of its own: its code may block it.
        handler = await asyncio.to_thread(start_target, target, given, run_id, self._url)
        self._running.add(handler)
        watching = asyncio.create_task(self._watch(handler))
        self._watching.add(watching)
        watching.add_done_callback(self._watching.discard)
        return handler

    async def drain(self, within_s: float) -> None:
        """Let the runs finish; cancel those that are still under way after that time."""
        if self._watching:
            await asyncio.wait(self._watching, timeout=within_s)
        for handler in list(self._running):
            logger.warning("run %s is cancelled: %s", handler.run_id, STOPPING)
            try:
                await handler.cancel_run(STOPPING)
            except RunstreamError as error:
                logger.warning("run %s cannot be cancelled: %s", handler.run_id, error)
        if self._watching:
            await asyncio.wait(self._watching, timeout=CANCEL_S)
        for watching in self._watching:
            watching.cancel()

    async def _watch(self, handler: Handler) -> None:
        try:
            await handler.result()
        except Exception as error:  # noqa: BLE001 - a step's own; its stream has the details
            logger.info("run %s did not complete: %s", handler.run_id, type(error).__name__)
        finally:
            self._running.discard(handler)


def _described(target: Target) -> str:
    of = type(target) if isinstance(target, Workflow) else target.function
    own = isinstance(target, Workflow) and of is Workflow
    return "" if own else inspect.getdoc(of) or ""
