"""The streams of one log: follow its runs, look at them, list them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from .errors import InvalidInput
from .filter import Names, make_filter
from .handler import Handler
from .log import LIST_LIMIT_MAX, Log, Removes, RunInfo, Status
from .start import make_start
from .subscription import Subscription


class Streams:
    """The streams of one log; made by `async with connect(url) as streams:`."""

    def __init__(self, log: Log) -> None:
        self.log = log

    def subscribe(
        self,
        run_id: str,
        *,
        kinds: Names = None,
        topics: Names = None,
        steps: Names = None,
        correlation_ids: Names = None,
        from_seq: int | None = None,
        after: str | None = None,
        last: int | None = None,
        follow: bool = True,
        wait: bool = False,
    ) -> Subscription:
        """The records of a run: history, then live, until its terminal record.

        An async iterator, and for prompt closing an async context manager. Filters are OR within one
        and AND across; a string is one value. Gaps, drops and the terminal record pass every filter.

        Args:
            kinds, topics, steps, correlation_ids: what to get; by default everything.
            from_seq: begin with this number (0 means 1; one past the newest waits for it).
            after: begin behind this cursor (`record.cursor`): a reconnection always uses it.
            last: begin so that this many records of the filter are history.
            follow: False ends at what is stored now.
            wait: wait for the run if it is not there yet.

        Raises (while iterating):
            RunNotFound: no such run, and not `wait`.
            InvalidPosition: the position is past the end.
            LogUnavailable, LogClosed: the log cannot be read.
        """
        return Subscription(
            self.log,
            run_id,
            filter=make_filter(
                kinds=kinds, topics=topics, steps=steps, correlation_ids=correlation_ids
            ),
            start=make_start(from_seq, after, last),
            follow=follow,
            wait=wait,
        )

    def handler(self, run_id: str) -> Handler:
        """A run as seen from outside: its result, events, tasks; signal or cancel it."""
        return Handler(self.log, run_id)

    async def info(self, run_id: str) -> RunInfo:
        """What the log knows of a run. Raises RunNotFound."""
        return await self.log.info(run_id)

    async def list_runs(
        self,
        *,
        workflow: str | None = None,
        status: Status | None = None,
        limit: int | None = None,
    ) -> list[RunInfo]:
        """Runs, newest first; all of them without a `limit`."""
        runs: list[RunInfo] = []
        async for page in self._pages(workflow, status, limit):
            runs += page
        return runs[:limit]

    async def remove_run(self, run_id: str) -> None:
        """Remove a root run that has ended, with its children: as if it had never been.

        Who reads it meanwhile gets a gap. Cancelled, it leaves the run whole or shortened.

        Raises:
            RunNotFound: it is not there (any more).
            InvalidInput: it has not ended, is a child, or this log cannot remove single runs.
        """
        if not isinstance(self.log, Removes):
            raise InvalidInput("this log removes finished runs by itself alone")
        await self.log.remove(run_id)

    async def _pages(
        self, workflow: str | None, status: Status | None, limit: int | None
    ) -> AsyncGenerator[list[RunInfo], None]:
        before: str | None = None
        left = limit
        while left is None or left > 0:
            size = min(left or LIST_LIMIT_MAX, LIST_LIMIT_MAX)
            page = list(
                await self.log.list(workflow=workflow, status=status, before=before, limit=size)
            )
            if page:
                yield page
            if len(page) < size:
                return
            before = page[-1].run_id
            left = None if left is None else left - len(page)
