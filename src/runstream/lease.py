"""Observing leases: has the process that runs a run vanished?

A lease has lapsed when an observer has seen the same counter for the lease's time on its *own* monotonic
clock. No clocks are compared, so none can be wrong.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from .errors import Forbidden, LogReadOnly, LogUnavailable
from .log import Lease, Log, RunInfo

# Between two looks at a run when nothing arrives: bounds how late a vanished process is noticed.
LOOK_S_MAX: Final = 5.0
# A run that lives only milliseconds on its lease (a test) is still not polled faster than this.
LOOK_S_MIN: Final = 0.02


class LeaseObserver:
    """One observer's memory of one run's lease. Time is the caller's: monotonic seconds."""

    def __init__(self) -> None:
        self._seen: tuple[Lease | None, str] | None = None
        self._since = 0.0

    def lapsed(self, info: RunInfo, now: float) -> bool:
        """Whether the lease in `info` has stood still for its time: `lease_s` while the run is
        running, `grace_s` while it is stalled. A run without a lease, or parked, never lapses.
        """
        seen = (info.lease, info.status)
        if seen != self._seen:
            self._seen = seen
            self._since = now
        limit = time_limit(info)
        return limit is not None and now - self._since >= limit


def time_limit(info: RunInfo) -> float | None:
    """How long (seconds) the lease may stand still; None: for ever."""
    if info.lease is None:
        return None
    if info.status == "running":
        return info.lease.lease_s
    if info.status == "stalled":
        return info.lease.grace_s
    return None


class LeaseWatch:
    """What every follower does for the runs that it follows: observe their leases, and have the log end
    the claims that lapsed.
    """

    def __init__(self, log: Log) -> None:
        self._log = log
        self._observers: defaultdict[str, LeaseObserver] = defaultdict(LeaseObserver)
        self._look_at = 0.0

    @property
    def due_in(self) -> float:
        """Seconds until the next look; 0 or less: now."""
        return self._look_at - time.monotonic()

    def saw(self, info: RunInfo) -> None:
        """What was just read of a root run counts as a look at it."""
        limit = time_limit(info)
        if limit is not None and info.run_id == info.root_run_id:
            now = time.monotonic()
            self._observers[info.run_id].lapsed(info, now)
            self._look_at = now + _pause(limit)

    def forget(self) -> None:
        """The log did not answer for a while: as nobody could renew a lease then, none has lapsed."""
        self._observers.clear()

    async def look(self, run_ids: Iterable[str]) -> str | None:
        """Look at the runs. Returns one whose lease lapsed while the log cannot be written to
        say so: its followers must end by themselves.

        Raises what `Log.info` and `Log.expire` do.
        """
        look_s = LOOK_S_MAX
        silent: str | None = None
        for run_id in run_ids:
            info = await self._log.info(run_id)
            limit = time_limit(info)
            if limit is not None:
                look_s = min(look_s, _pause(limit))
            if self._observers[run_id].lapsed(info, time.monotonic()) and info.lease is not None:
                try:
                    await self._log.expire(run_id, lease=info.lease)
                except (LogReadOnly, Forbidden):
                    silent = silent or run_id
                except LogUnavailable:
                    continue  # nobody can end it now, and its owner cannot renew it: look again
        self._look_at = time.monotonic() + look_s
        return silent


def _pause(limit_s: float) -> float:
    """Between two looks at a lease that may stand still for `limit_s`."""
    return min(LOOK_S_MAX, max(limit_s / 4, LOOK_S_MIN))
