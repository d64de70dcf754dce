"""Observing leases: has the process that runs a run vanished?

A lease has lapsed when an observer has seen the same counter for the lease's time on its *own* monotonic
clock. No clocks are compared, so none can be wrong.
"""

from __future__ import annotations

from .log import Lease, RunInfo


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
