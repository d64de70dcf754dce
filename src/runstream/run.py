"""Being inside a run without a workflow engine: `start_run` for the process that runs it, `attach` for
any other that adds to it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from contextvars import Token
from types import TracebackType
from typing import Any, Final, Literal, Self

import msgspec

from . import process
from .context import Outlet, Scope, current_scope
from .errors import LeaseHeld, LogUnavailable, RunstreamError
from .events import check_name
from .lease import LeaseObserver
from .log import LeaseClaim, Opened
from .outbox import Outbox
from .payload import encode_payload, exception_payload
from .publisher import Publisher, new_producer_id
from .record import Draft, check_run_id, now_us
from .settings import Overflow, Settings, environment_with, read_settings

# Leaving a run waits this long for its last record to be stored before it gives up with an error.
END_TIMEOUT_S: Final = 30.0
# Looks at a lease that somebody else holds, within the lease's time.
LOOKS_PER_LEASE: Final = 20

logger = logging.getLogger(__name__)


class Membership:
    """A place in a run: a context manager, sync and async, inside which `publish` goes to that run."""

    def __init__(self, run_id: str, url: str | None) -> None:
        self.run_id = check_run_id(run_id)
        self.settings: Settings = read_settings()
        self.url = url or self.settings.url
        self._publisher: Publisher | None = None
        self._outlet: Outlet | None = None
        # Set only where the outbox is this membership's own, not its parent run's.
        self._outbox: Outbox | None = None
        self._token: Token[Scope | None] | None = None
        self._pid = os.getpid()

    def __enter__(self) -> Self:
        self._prepare()
        publisher = self._publisher = process.publisher(self.url, self.settings)
        publisher.portal.call(self._join(publisher))
        self._begin()
        return self

    async def __aenter__(self) -> Self:
        self._prepare()
        publisher = self._publisher = await asyncio.to_thread(
            process.publisher, self.url, self.settings
        )
        await publisher.portal.run(self._join(publisher))
        self._begin()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        publisher, outlet = self._leave(error)
        publisher.portal.call(self._finish(publisher, outlet, failing=error is not None))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        publisher, outlet = self._leave(error)
        await publisher.portal.run(self._finish(publisher, outlet, failing=error is not None))

    # What the two kinds of membership differ in.

    def _prepare(self) -> None:
        """In the caller's context, before anything is opened."""

    async def _join(self, publisher: Publisher) -> None:
        """In the publisher's loop: open the run and set `_outlet` (and `_outbox`)."""
        raise NotImplementedError

    def _scope(self, outlet: Outlet) -> Scope:
        raise NotImplementedError

    def _first_record(self, outlet: Outlet) -> None:
        """Queue what the membership begins with."""

    def _last_record(self, outlet: Outlet, error: BaseException | None) -> None:
        """Queue what the membership ends with."""

    async def _released(self, publisher: Publisher) -> None:
        """After the last record is stored."""

    # What they share.

    def _begin(self) -> None:
        outlet = self._joined
        self._token = current_scope.set(self._scope(outlet))
        self._first_record(outlet)

    def _leave(self, error: BaseException | None) -> tuple[Publisher, Outlet]:
        if self._token is not None:
            current_scope.reset(self._token)
            self._token = None
        outlet = self._joined
        if os.getpid() != self._pid:
            # A forked child leaves the block too: the run goes on in the parent.
            return process.publisher(self.url), outlet
        try:
            self._last_record(outlet, error)
        except RunstreamError as refusal:
            # The run was lost or fenced meanwhile. An error on its way out must not be replaced.
            if error is None:
                raise
            logger.warning("run %s: its end could not be recorded: %s", self.run_id, refusal)
        if self._publisher is None:
            raise RunstreamError("this run has not been entered")
        return self._publisher, outlet

    async def _finish(self, publisher: Publisher, outlet: Outlet, *, failing: bool) -> None:
        waiting = asyncio.wrap_future(outlet.ticket())
        done, _ = await asyncio.wait([waiting], timeout=END_TIMEOUT_S)
        stored = bool(done) and waiting.result()
        if os.getpid() != self._pid:
            return
        await self._released(publisher)
        if self._outbox is not None:
            publisher.remove_outbox(self._outbox)
            process.count_past(self._outbox.counts)
        if not stored and not failing:
            raise LogUnavailable(
                f"run {self.run_id!r}: its last records could not be stored within "
                f"{END_TIMEOUT_S:.0f} s"
            )

    @property
    def _joined(self) -> Outlet:
        if self._outlet is None:
            raise RunstreamError("enter the run first: `with start_run(...) as run:`")
        return self._outlet

    def environment(self) -> dict[str, str]:
        """This process's environment plus `RUNSTREAM_RUN`, for a subprocess that publishes here."""
        return environment_with(self._scope(self._joined).as_child_run())


class Run(Membership):
    """A run that this process runs; made by `start_run`."""

    def __init__(
        self,
        workflow: str,
        *,
        run_id: str | None,
        url: str | None,
        parent: str | Literal["auto"] | None,
        producer: str | None,
        lease_s: float | None,
        grace_s: float,
        overflow: Overflow | None,
        linger_s: float,
    ) -> None:
        super().__init__(run_id or new_run_id(), url)
        self.workflow = check_name(workflow, "workflow")
        self.parent_run_id = None if parent in (None, "auto") else check_run_id(parent)
        self.resumed = False
        self.last_number = 0
        self._nest = parent == "auto"
        self._explicit_url = url is not None
        self._producer = producer
        self._claim = LeaseClaim(lease_s or self.settings.lease_s, grace_s)
        self._overflow: Overflow | None = overflow
        self._linger_s = linger_s
        self._parent: Scope | None = None
        self._opened: Opened | None = None
        self._result: Any = None
        self._parked = False
        self._started_at = time.monotonic()

    def set_result(self, result: Any) -> None:
        """The run's result, stored in its terminal record.

        Raises:
            InvalidPayload: the result is not JSON.
        """
        encode_payload({"result": result})
        self._result = result

    def park(self) -> None:
        """Leave the run `waiting` at the end of the block, instead of ending it: no process holds it
        then, and `start_run` with its `run_id` takes it up again.
        """
        self._parked = True

    def _prepare(self) -> None:
        scope = current_scope.get()
        if self._nest and scope is not None:
            if not self._explicit_url:
                self.url = scope.outlet.url
            if self.url == scope.outlet.url:
                self._parent = scope
                self.parent_run_id = scope.run_id

    async def _join(self, publisher: Publisher) -> None:
        log = publisher.log
        if self._parent is not None:
            # A child in this process: its records go out with its parent's, under the same lease.
            await log.open(
                self.run_id, producer=None, workflow=self.workflow, parent_run_id=self.parent_run_id
            )
            self._outlet = self._parent.outlet
            return
        producer = self._producer or new_producer_id()
        opened = self._opened = await self._claim_run(publisher, producer)
        self.resumed = not opened.created
        self.last_number = opened.number
        self._outlet = self._outbox = publisher.add_outbox(
            self.run_id,
            opened.info.root_run_id,
            producer_id=producer,
            opened=opened,
            overflow=self._overflow,
            linger_s=self._linger_s,
        )
        publisher.keep_lease(self.run_id, opened, self._outbox)

    async def _claim_run(self, publisher: Publisher, producer: str) -> Opened:
        """Open the run; if another process holds it, see first whether that one is still alive."""
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
        return Scope(outlet, self.run_id)

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
            case None:
                self._put(outlet, "run.completed", {"result": self._result})
            case asyncio.CancelledError() | KeyboardInterrupt() | GeneratorExit():
                self._put(outlet, "run.cancelled", {"reason": type(error).__name__})
            case _:
                self._put(
                    outlet,
                    "run.failed",
                    {"exception": exception_payload(error), "elapsed_seconds": elapsed},
                )

    def _put(self, outlet: Outlet, kind: str, data: dict[str, object]) -> None:
        raw = msgspec.Raw(encode_payload(data, size_bytes_max=outlet.size_bytes_max))
        outlet.put_always(Draft(now_us(), self.run_id, kind, raw))

    async def _released(self, publisher: Publisher) -> None:
        if self._opened is None:
            return
        publisher.drop_lease(self.run_id)
        lease = self._opened.info.lease
        if self._parked and lease is not None:
            await publisher.log.release(self.run_id, owner=lease.owner, epoch=self._opened.epoch)


class Attachment(Membership):
    """A place in a run that another process runs; made by `attach`."""

    def __init__(
        self,
        run_id: str,
        *,
        step: str | None,
        step_run_id: str | None,
        attempt: int | None,
        url: str | None,
        producer: str | None,
        overflow: Overflow | None,
        linger_s: float,
    ) -> None:
        super().__init__(run_id, url)
        if step is not None:
            step_run_id = step_run_id or secrets.token_hex(8)
            attempt = attempt or 1
        self.step = None if step is None else check_name(step, "step")
        self.step_run_id = step_run_id
        self.attempt = attempt
        self.last_number = 0
        self._producer = producer
        self._overflow: Overflow | None = overflow
        self._linger_s = linger_s

    async def _join(self, publisher: Publisher) -> None:
        producer = self._producer or new_producer_id()
        opened = await publisher.log.open(self.run_id, producer=producer)
        self.last_number = opened.number
        self._outlet = self._outbox = publisher.add_outbox(
            self.run_id,
            opened.info.root_run_id,
            producer_id=producer,
            opened=opened,
            overflow=self._overflow,
            linger_s=self._linger_s,
        )

    def _scope(self, outlet: Outlet) -> Scope:
        return Scope(outlet, self.run_id, self.step, self.step_run_id, self.attempt)


def start_run(
    workflow: str,
    *,
    run_id: str | None = None,
    url: str | None = None,
    parent: str | Literal["auto"] | None = "auto",
    producer: str | None = None,
    lease: float | None = None,
    grace: float = 0.0,
    overflow: Overflow | None = None,
    batch_interval: float = 0.0,
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
        parent: the id of the run that this is a child of. "auto": the run that this is called in, if
            any; None: a run of its own in any case.
        producer: a stable id for exactly-once publishing across restarts of the process: the same id
            fences the process before, and `run.last_number` tells how many records it got stored.
        lease: seconds without a sign of life after which this process counts as dead.
        grace: seconds for which the run may then be taken up by another process before it is lost.
        overflow: what a full queue does: "block", "drop_oldest" or "raise".
        batch_interval: seconds that a record may wait for others to share its batch.

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
    )


def attach(
    run_id: str,
    *,
    step: str | None = None,
    step_run_id: str | None = None,
    attempt: int | None = None,
    url: str | None = None,
    producer: str | None = None,
    overflow: Overflow | None = None,
    batch_interval: float = 0.0,
) -> Attachment:
    """Publish into a run from another process: `with attach(run_id, step="train"):` (or `async with`).

    Leaving the block waits until what was published is stored; the run goes on.

    Args:
        run_id: a run that is there and has not ended.
        step, step_run_id, attempt: what the records are attributed to.
        url, producer, overflow, batch_interval: as in `start_run`.

    Raises (on entering):
        RunNotFound, RunEnded: there is nothing to attach to.
    """
    return Attachment(
        run_id,
        step=step,
        step_run_id=step_run_id,
        attempt=attempt,
        url=url,
        producer=producer,
        overflow=overflow,
        linger_s=batch_interval,
    )


def new_run_id() -> str:
    """Short enough to type, random enough for any number of runs."""
    return secrets.token_hex(8)
