"""Being inside a run without a workflow engine: `start_run`, for the process that runs it."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from typing import Any, Final, get_args

import msgspec

from .attempt import Attempt
from .child_outlet import ChildOutlet
from .conductor import Conductor
from .context import Control, Outlet, Scope, current_scope
from .errors import InvalidInput, LeaseHeld
from .events import check_name
from .lease import LeaseObserver
from .log import LeaseClaim, Opened, Retains
from .logs import canonical_url
from .membership import Membership
from .payload import encode_payload, exception_payload
from .publisher import Publisher, new_producer_id
from .record import Draft, check_run_id, now_us
from .retention import Retention, check_retention
from .run_state import Plan
from .settings import Overflow

# Looks at a lease that somebody else holds, within the lease's time.
LOOKS_PER_LEASE: Final = 20
# A record that lingers longer than this is no longer live.
LINGER_S_MAX: Final = 60.0


class Run(Membership):
    """A run that this process runs; made by `start_run`."""

    def __init__(
        self,
        workflow: str,
        *,
        run_id: str | None,
        url: str | None,
        parent: str | None,
        producer: str | None,
        lease_s: float | None,
        grace_s: float,
        overflow: Overflow | None,
        linger_s: float,
        retention: Retention | None = None,
    ) -> None:
        super().__init__(run_id or new_run_id(), url)
        self._retention = None if retention is None else check_retention(retention)
        self.workflow = check_name(workflow, "workflow")
        self.parent_run_id = None if parent in (None, "auto") else check_run_id(parent)
        self.resumed = False
        self.last_number = 0
        self._nest = parent == "auto"
        self._explicit_url = url is not None
        self._producer = None if producer is None else check_name(producer, "producer id")
        self._claim = LeaseClaim(
            self.settings.lease_s if lease_s is None else _seconds(lease_s, "a lease", above=True),
            _seconds(grace_s, "a grace"),
        )
        self._overflow: Overflow | None = check_overflow(overflow)
        self._linger_s = check_linger(linger_s)
        # With wishes of its own it cannot share its parent's outbox and lease.
        self._may_share = all(
            wish is None for wish in (producer, lease_s, overflow, retention)
        ) and not (grace_s or linger_s)
        self._parent: Scope | None = None
        self._opened: Opened | None = None
        self._result = msgspec.Raw(b'{"result":null}')
        self._parked = False
        self._started_at = time.monotonic()

    def set_result(self, result: Any) -> None:
        """The run's result, stored in its terminal record: as it is now, whatever changes later.

        Raises:
            InvalidPayload: the result is not JSON, or too large.
        """
        size_bytes_max = self.settings.record_size_bytes_max
        self._result = msgspec.Raw(
            encode_payload({"result": result}, size_bytes_max=size_bytes_max)
        )

    def park(self) -> None:
        """Leave the run `waiting` at the end of the block, instead of ending it: no process holds it
        then, and `start_run` with its `run_id` takes it up again.
        """
        self._parked = True

    def _prepare(self) -> None:
        super()._prepare()
        self._started_at = time.monotonic()
        if not self._nest:
            return
        scope, named = current_scope.get(), self.settings.run
        if scope is not None:
            url, run_id = scope.outlet.url, scope.run_id
        elif named is not None:
            url, run_id = canonical_url(named.url), named.run_id
        else:
            return
        if not self._explicit_url:
            self.url = url
        if self.url == url:
            self.parent_run_id = run_id
            self._parent = scope if self._may_share else None

    async def _join(self, publisher: Publisher) -> None:
        if self._parent is not None:
            await self._join_parent(publisher, self._parent)
            return
        if self._retention is not None and self.parent_run_id is not None:
            raise InvalidInput(
                "a child's records lie with its root's: give the retention to the root"
            )
        if self._retention is not None and not isinstance(publisher.log, Retains):
            raise InvalidInput("this log has no limits for single runs: set them for all runs")
        producer = self._producer or new_producer_id()
        opened = self._opened = await self._claim_run(publisher, producer)
        self.resumed = not opened.created
        self.last_number = opened.number
        if self._retention is not None and isinstance(publisher.log, Retains):
            # Before its lease is kept: if this is refused, the run is not left running.
            await publisher.log.retain(self.run_id, self._retention)
        self._outlet = self._outbox = publisher.add_outbox(
            self.run_id,
            opened.info.root_run_id,
            producer_id=producer,
            opened=opened,
            overflow=self._overflow,
            linger_s=self._linger_s,
        )
        publisher.keep_lease(self.run_id, opened, self._outbox)
        publisher.keep_limits(of_run=self._retention is not None)

    async def _join_parent(self, publisher: Publisher, parent: Scope) -> None:
        """A child in this process: its records go out with its parent's, under the same lease."""
        opened = await publisher.log.open(
            self.run_id, producer=None, workflow=self.workflow, parent_run_id=self.parent_run_id
        )
        if opened.info.parent_run_id != self.parent_run_id:
            raise InvalidInput(
                f"run {self.run_id!r} is there already, and is no child of {self.parent_run_id!r}: "
                "choose another run_id, or parent=None"
            )
        self.resumed = not opened.created
        self._outlet = ChildOutlet(parent.outlet, self.run_id)

    async def _claim_run(self, publisher: Publisher, producer: str) -> Opened:
        """Open the run; if another process holds it, see first whether that one is still alive."""
        if publisher.holds_lease(self.run_id):
            raise LeaseHeld(f"run {self.run_id!r} is being run by this very process")
        observer = LeaseObserver()
        first_seen: int | None = None
        while True:
            try:
                return await publisher.log.open(
                    self.run_id,
                    producer=producer,
                    workflow=self.workflow,
                    parent_run_id=self.parent_run_id,
                    claim=self._claim,
                )
            except LeaseHeld:
                info = await publisher.log.info(self.run_id)
                lease = info.lease
                if lease is None:
                    continue
                first_seen = lease.counter if first_seen is None else first_seen
                if lease.counter != first_seen:
                    raise
                if observer.lapsed(info, time.monotonic()):
                    await publisher.log.expire(self.run_id, lease=lease)
                else:
                    await asyncio.sleep(lease.lease_s / LOOKS_PER_LEASE)

    def _scope(self, outlet: Outlet) -> Scope:
        return Scope(outlet, self.run_id, control=self._control(outlet))

    def _control(self, outlet: Outlet) -> Control | None:
        """Who runs the steps that the block calls."""
        if self._publisher is None:
            return None
        plan, portal = Plan(), self._publisher.portal
        return Attempt(Conductor(plan, run_id=self.run_id, outlet=outlet, portal=portal))

    def _first_record(self, outlet: Outlet) -> None:
        if self.resumed:
            self._put(outlet, "run.resumed", {})
            return
        self._put(
            outlet,
            "run.started",
            {
                "workflow": self.workflow,
                "parent_run_id": self.parent_run_id,
                "root_run_id": outlet.root_run_id,
            },
        )

    def _last_record(self, outlet: Outlet, error: BaseException | None) -> None:
        elapsed = round(time.monotonic() - self._started_at, 6)
        match error:
            case None if self._parked:
                self._put(outlet, "run.waiting", {})
            case None | SystemExit(code=None | 0):
                outlet.put_always(Draft(now_us(), self.run_id, "run.completed", self._result))
            case asyncio.CancelledError() | KeyboardInterrupt() | GeneratorExit():
                self._put(outlet, "run.cancelled", {"reason": type(error).__name__})
            case _:
                self._put(
                    outlet,
                    "run.failed",
                    {"exception": exception_payload(error), "elapsed_seconds": elapsed},
                )

    def _take_back(self, outlet: Outlet) -> None:
        # A run that was there before stays as it was: another process may still take it up.
        if not self.resumed:
            self._first_record(outlet)
            self._last_record(outlet, asyncio.CancelledError())

    def _put(self, outlet: Outlet, kind: str, data: dict[str, object]) -> None:
        # (Every part of it is JSON, and within its own limit.)
        raw = msgspec.Raw(msgspec.json.encode(data))
        outlet.put_always(Draft(now_us(), self.run_id, kind, raw))

    async def _released(self, publisher: Publisher) -> None:
        if self._opened is None:
            return
        publisher.drop_lease(self.run_id)
        lease = self._opened.info.lease
        if self._parked and lease is not None:
            await publisher.log.release(self.run_id, owner=lease.owner, epoch=self._opened.epoch)


def start_run(
    workflow: str,
    *,
    run_id: str | None = None,
    url: str | None = None,
    parent: str | None = "auto",
    producer: str | None = None,
    lease: float | None = None,
    grace: float = 0.0,
    overflow: Overflow | None = None,
    batch_interval: float = 0.0,
    retention: Retention | None = None,
) -> Run:
    """Run something of your own: `with start_run("nightly") as run:` (or `async with`).

    The block is the run. It ends as `completed`, as `failed` with the exception that leaves the block,
    or as `cancelled`; its terminal record is stored before the block is left. While it lasts, this
    process holds the run's lease and renews it; if the process dies, followers see the run `stalled` or
    `lost` soon after.

    Args:
        workflow: what this is a run of.
        run_id: your own id; drawn at random by default. The id of a parked or stalled run takes that run
            up again (`run.resumed` is True).
        url: the log; by default `RUNSTREAM_URL`, else SQLite in the user's data directory.
        parent: the id of the run that this is a child of. "auto": the run that this is called in, if any,
            also when a parent process named it in `RUNSTREAM_RUN`; None: a run of its own in any case.
        producer: a stable id for exactly-once publishing across restarts of the process: the same id
            fences the process before, and `run.last_number` tells how many records it got stored.
        lease: seconds without a sign of life after which this process counts as dead.
        grace: seconds for which the run may then be taken up by another process before it is lost.
        overflow: what a full queue does: "block", "drop_oldest" or "raise".
        batch_interval: seconds that a record may wait for others to share its batch.
        retention: how much of the run is kept; without limits of its own, those of its log hold.

    Raises (on entering):
        RunEnded: a run of that id has ended.
        LeaseHeld: another process is running it.
        LogUnavailable, NotALog, InvalidURL: the log cannot be used.
    """
    return Run(
        workflow,
        run_id=run_id,
        url=url,
        parent=parent,
        producer=producer,
        lease_s=lease,
        grace_s=grace,
        overflow=overflow,
        linger_s=batch_interval,
        retention=retention,
    )


def new_run_id() -> str:
    """Short enough to type, random enough for any number of runs."""
    return secrets.token_hex(8)


def check_overflow(overflow: Overflow | None) -> Overflow | None:
    """Raises InvalidInput unless it is one, or none."""
    if overflow is not None and overflow not in get_args(Overflow):
        raise InvalidInput(f"overflow is one of {', '.join(get_args(Overflow))}, not {overflow!r}")
    return overflow


def check_linger(linger_s: float) -> float:
    """Raises InvalidInput unless a record may wait so many seconds for company."""
    if _seconds(linger_s, "a batch_interval") > LINGER_S_MAX:
        raise InvalidInput(f"a batch_interval is at most {LINGER_S_MAX:.0f} s, not {linger_s}")
    return linger_s


def _seconds(value: float, what: str, *, above: bool = False) -> float:
    if not math.isfinite(value) or value < 0 or (above and not value):
        raise InvalidInput(
            f"{what} is a number of seconds {'above' if above else 'from'} 0, not {value}"
        )
    return float(value)
