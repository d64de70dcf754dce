"""Abandoned runs end even if nobody follows them: the server observes the leases of all open runs.

Every follower observes the run that it follows, too; whoever sees a lease lapse first calls `expire`, and
for all others that is harmless.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator
from typing import Final, get_args

from ..errors import LogClosed, RunNotFound, RunstreamError
from ..lease import LeaseObserver, time_limit
from ..log import END_STATUSES, Log, RunInfo, Status
from .metrics import Metrics
from .site import Site

# Between two looks: a quarter of the shortest lease, within these bounds.
LOOK_S_MIN: Final = 0.25
LOOK_S_MAX: Final = 5.0
# Looking may take this part of the server's time, however many runs are open.
DUTY_MAX: Final = 0.05
# Runs in a page: few enough that the event loop is soon free again.
PAGE: Final = 200

OPEN_STATUSES: Final[tuple[Status, ...]] = tuple(
    status for status in get_args(Status) if status not in END_STATUSES
)

logger = logging.getLogger(__name__)


async def watch_leases(site: Site) -> None:
    """Look at the open runs again and again, until cancelled or the log is closed."""
    watch = LeaseWatch(site.log, site.metrics)
    while True:
        began_s = time.perf_counter()
        try:
            pause_s = await watch.look()
        except LogClosed:
            return
        except RunstreamError as error:
            logger.warning("cannot look after the leases of runs: %s", error)
            pause_s = LOOK_S_MAX
        await asyncio.sleep(max(pause_s, (time.perf_counter() - began_s) / DUTY_MAX))


class LeaseWatch:
    """One observer of all open runs of a log. `now` is a monotonic clock."""

    def __init__(self, log: Log, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics
        self._observers: defaultdict[str, LeaseObserver] = defaultdict(LeaseObserver)

    async def look(self, now: float | None = None) -> float:
        """Look at each open run once, and expire the leases that have lapsed; how long (seconds) the
        next look may wait.

        Raises what the log raises; what was observed so far is kept.
        """
        open_runs: Counter[str] = Counter()
        seen: set[str] = set()
        pause_s = LOOK_S_MAX
        async for info in open_runs_of(self._log):
            if info.run_id in seen:
                continue  # its status has changed meanwhile
            seen.add(info.run_id)
            open_runs[info.status] += 1
            limit = time_limit(info)
            if limit is None or info.lease is None:
                continue
            pause_s = min(pause_s, max(limit / 4, LOOK_S_MIN))
            if self._observers[info.run_id].lapsed(info, time.monotonic() if now is None else now):
                after = await self._log.expire(info.run_id, lease=info.lease)
                if after.status != info.status:
                    logger.info("run %s was abandoned: it is %s now", info.run_id, after.status)
                    self._metrics.expired(after.status)
        for gone in self._observers.keys() - seen:
            del self._observers[gone]
        self._metrics.opened(open_runs)
        return pause_s


async def open_runs_of(log: Log) -> AsyncGenerator[RunInfo, None]:
    """The runs that have not ended, page by page; one that changes its status meanwhile may come twice
    or not at all.
    """
    for status in OPEN_STATUSES:
        before: str | None = None
        while True:
            try:
                page = await log.list(status=status, before=before, limit=PAGE)
            except RunNotFound:
                break  # the run that the last page ended with was removed: the next look sees the rest
            for info in page:
                yield info
            if len(page) < PAGE:
                break
            before = page[-1].run_id
            await asyncio.sleep(0)
