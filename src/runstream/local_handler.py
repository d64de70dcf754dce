"""The handler of a run that this process runs: as `Handler`, and it knows the run itself."""

from __future__ import annotations

import asyncio
from typing import Any

from .events import Event
from .handler import Handler
from .log import Log, Status
from .runner import Runner


class LocalHandler(Handler):
    """What `.run(...)` returns. Usable in any task, thread and event loop, before the run is open, too.

    `await handler` raises a failed step's own exception; so it does not matter to the caller that a
    stream lies between.
    """

    def __init__(self, runner: Runner) -> None:
        super().__init__(self._wait_opened, runner.run_id)
        self._runner = runner
        self._classes: tuple[type[Event], ...] = ()

    async def result(self) -> Any:
        # (Nobody can cancel the outcome: cancelling this only stops the waiting.)
        return await asyncio.wrap_future(self._runner.outcome)

    @property
    def status(self) -> Status:
        return self._runner.status

    def is_done(self) -> bool:
        return self._runner.outcome.done()

    async def _wait_opened(self) -> Log:
        return await asyncio.wrap_future(self._runner.opened)

    def _event_classes(self) -> tuple[type[Event], ...]:
        # The run's own classes, as they become known, before namesakes of other modules.
        own = self._runner.job.event_classes
        if len(own) != len(self._classes):
            self._classes = tuple(own)
        return self._classes
