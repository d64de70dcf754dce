"""The publisher: sends what the outboxes of this process hold for one log.

A log that writes on a thread of its own in this process (SQLite) takes the records itself, one hand-over
and one commit for all runs. Any other log is sent to from the publisher's own loop, one batch in flight
per producer; what is queued meanwhile goes in the next one. A batch that may not have arrived is sent
again, unchanged, until the log answers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import secrets
from collections import deque
from collections.abc import Callable
from typing import Final

from .batch import Batch
from .errors import (
    Forbidden,
    LeaseLost,
    LogClosed,
    LogUnavailable,
    RunstreamError,
    StreamingOff,
    Unauthorized,
)
from .keeper import Keeper
from .log import Appended, FetchesAppends, Log, Opened, PendingAppend, SendsInParts, TellsLimits
from .logs import is_embedded, with_secrets_hidden
from .loop_watch import LoopWatch
from .outbox import Outbox
from .portal import Portal
from .settings import Overflow, Settings

logger = logging.getLogger(__name__)

# The first pause after a log did not answer, and the longest: soon enough to be unnoticed when it was a
# hiccup, rare enough to leave a log in trouble alone.
RETRY_S: Final = 0.05
RETRY_S_MAX: Final = 2.0
# A server that wants none of our records is asked again after this time: a token may be renewed, and a
# switch turned; until then nobody is bothered.
MUTED_S: Final = 15.0
_REFUSING: Final = (StreamingOff, Unauthorized, Forbidden)
# A lease is renewed this many times before it lapses, so that one or two slow commits do no harm.
RENEWALS_PER_LEASE: Final = 3


class Publisher:
    """All outboxes of this process that lead to one log. Safe for any thread."""

    def __init__(self, url: str, log: Log, settings: Settings) -> None:
        self.url = url
        self.log = log
        self.portal = Portal(f"runstream-publisher-{url.partition(':')[0]}")
        self._settings = settings
        self._outboxes: list[Outbox] = []
        self._ready: deque[Outbox] = deque()
        self._resting: set[Outbox] = set()
        self._sending: dict[Outbox, asyncio.Task[None]] = {}
        self._hurries: dict[Outbox, asyncio.Event] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._limits: asyncio.Task[None] | None = None
        self._pauses: dict[Outbox, float] = {}
        # Runs of this process that are under way: nothing else need hold on to them.
        self.in_progress: set[object] = set()
        self.loops = LoopWatch(self.portal, settings.blocked_s)
        self._call_writer: Callable[[], None] | None = None
        self._batch_limit: int | None = None
        if isinstance(log, SendsInParts):
            self._batch_limit = log.append_records
        elif not self.in_process:
            self._batch_limit = settings.publish_batch_size
        if isinstance(log, FetchesAppends):
            self._call_writer = log.fetch_from(self._take)

    @property
    def in_process(self) -> bool:
        """Whether the log is stored by this process itself."""
        return is_embedded(self.url)

    @property
    def outboxes(self) -> list[Outbox]:
        """Those that still have, or may still get, something to send."""
        return list(self._outboxes)

    def add_outbox(
        self,
        run_id: str,
        root_run_id: str,
        *,
        producer_id: str | None = None,
        opened: Opened | None = None,
        overflow: Overflow | None = None,
        linger_s: float = 0.0,
    ) -> Outbox:
        """A new producer's outbox; without an `opened` answer its id must be None (a random one)."""
        default: Overflow = "block" if self.in_process else "drop_oldest"
        outbox = Outbox(
            url=self.url,
            run_id=run_id,
            root_run_id=root_run_id,
            producer_id=producer_id or new_producer_id(),
            epoch=opened.epoch if opened else 0,
            number=opened.number if opened else 0,
            records_max=self._settings.queue_records_max,
            size_bytes_max=self._settings.record_size_bytes_max,
            overflow=overflow or self._settings.overflow or default,
            kick=self._kick_for(linger_s),
            linger_s=linger_s,
        )
        self._outboxes.append(outbox)
        return outbox

    def remove_outbox(self, outbox: Outbox) -> None:
        """Nothing will be put there any more; its counts live on in the caller."""
        with contextlib.suppress(ValueError):
            self._outboxes.remove(outbox)

    def adopt(self, outbox: Outbox) -> None:
        """Take over an outbox that a forked process inherited, and send what is in it."""
        self._outboxes.append(outbox)
        kick = self._kick_for(outbox.linger_s)
        outbox.connect(kick)
        kick(outbox)

    def _kick_for(self, linger_s: float) -> Callable[[Outbox], None]:
        """What an outbox calls when it has something to send. Any thread; cheap."""
        return self._send_soon if linger_s == 0 else self._send_late

    def _send_late(self, outbox: Outbox) -> None:
        if outbox.urgent:
            self._send_soon(outbox)
        else:
            self.portal.call_later(outbox.linger_s, self._send_soon, outbox)

    def _send_soon(self, outbox: Outbox) -> None:
        if self._call_writer is not None:
            self._ready.append(outbox)
            self._call_writer()
        else:
            self.portal.call_soon(self._start_sending, outbox)

    # --- a log that takes the records itself -----------------------------------------------------

    def _take(self) -> list[PendingAppend]:
        """Everything that waits; called by the log's writing thread."""
        appends: list[PendingAppend] = []
        taken: set[Outbox] = set()
        again: list[Outbox] = []
        while self._ready:
            outbox = self._ready.popleft()
            if outbox in self._resting:
                continue
            if outbox in taken:
                # It has asked again after its batch was taken, and has woken the writer for it.
                again.append(outbox)
                continue
            taken.add(outbox)
            batch = outbox.take(prepares=True)
            if batch is not None:
                done = functools.partial(self._settle_or_rest, outbox, batch)
                appends.append(
                    PendingAppend(
                        outbox.root_run_id,
                        batch.drafts,
                        batch.producer,
                        batch.final,
                        done,
                        outbox.prepared,
                    )
                )
        self._ready.extend(again)
        return appends

    def _settle_or_rest(self, outbox: Outbox, batch: Batch, outcome: Appended | Exception) -> None:
        outbox.prepared()  # it never was if the commit did not come so far
        rested = outbox in self._pauses
        if not self._settle(outbox, batch, outcome):
            self._resting.add(outbox)
            self.portal.call_later(self._pause(outbox), self._wake, outbox)
        elif rested:
            self._send_soon(outbox)  # what came while it rested was not asked for

    def _wake(self, outbox: Outbox) -> None:
        self._resting.discard(outbox)
        self._send_soon(outbox)

    # --- a log that is sent to -------------------------------------------------------------------

    def _start_sending(self, outbox: Outbox) -> None:
        if outbox in self._hurries and outbox.muted and outbox.ending:
            self._hurries[outbox].set()
        if outbox not in self._sending:
            self._sending[outbox] = asyncio.ensure_future(self._send(outbox))

    async def _send(self, outbox: Outbox) -> None:
        """Send until the outbox is empty. Owned by the portal; failures end up in the outbox."""
        try:
            while (batch := outbox.take(self._batch_limit)) is not None:
                try:
                    outcome: Appended | Exception = await self.log.append(
                        outbox.root_run_id,
                        batch.drafts,
                        producer=batch.producer,
                        final=batch.final,
                    )
                except Exception as error:  # noqa: BLE001 - `_settle` looks at what it is
                    outcome = error
                if not self._settle(outbox, batch, outcome):
                    await self._rest(outbox)
        finally:
            del self._sending[outbox]

    async def _rest(self, outbox: Outbox) -> None:
        """Before the next attempt. The end of a run does not wait until it is time to ask again."""
        hurry = self._hurries[outbox] = asyncio.Event()
        try:
            await asyncio.wait_for(hurry.wait(), self._pause(outbox))
        except TimeoutError:
            return
        finally:
            del self._hurries[outbox]

    # --- both ------------------------------------------------------------------------------------

    def _settle(self, outbox: Outbox, batch: Batch, outcome: Appended | Exception) -> bool:
        """Tell the outbox; False if the batch must be sent again."""
        if isinstance(outcome, LogUnavailable):
            outbox.failed(outcome)
            return False
        if isinstance(outcome, _REFUSING):
            if outbox.mute(outcome):
                logger.warning(
                    "run %s: %s. Records of this process for %s are dropped; it is asked again every "
                    "%g s. Give another token (RUNSTREAM_TOKEN), or have streaming switched on there.",
                    outbox.run_id,
                    outcome,
                    with_secrets_hidden(self.url),
                    MUTED_S,
                )
            return False
        self._pauses.pop(outbox, None)
        if isinstance(outcome, Appended):
            outbox.stored(batch)
        elif isinstance(outcome, RunstreamError):
            outbox.refused(batch, outcome)
        else:
            outbox.refused(batch, RunstreamError(f"the log failed: {outcome!r}"))
        return True

    def _pause(self, outbox: Outbox) -> float:
        if outbox.muted:
            return MUTED_S
        pause = min(self._pauses.get(outbox, RETRY_S / 2) * 2, RETRY_S_MAX)
        self._pauses[outbox] = pause
        return pause

    def keep_lease(self, run_id: str, opened: Opened, outbox: Outbox) -> None:
        """Renew the lease until `drop_lease`; if it is lost, the outbox refuses from then on.

        In the portal's loop, as `drop_lease` and `holds_lease`.
        """
        self._keepers[run_id] = asyncio.ensure_future(self._keep(run_id, opened, outbox))

    def keep_limits(self, *, of_run: bool) -> None:
        """Enforce limits: those of the settings, and those of single runs (`of_run`: there is one now).

        On all runs of a log that this process itself stores; of an engine that many share, on the runs
        that this process holds (a server does it for its log). In the portal's loop; once is enough.
        """
        if self._limits is not None or not isinstance(self.log, TellsLimits):
            return
        if of_run or not self._settings.retention.is_empty:
            only = None if self.in_process else self._keepers.keys
            keeper = Keeper(self.log, self._settings.retention, only=only)
            self._limits = asyncio.ensure_future(keeper.keep())

    def drop_lease(self, run_id: str) -> None:
        """Stop renewing (the run ends, or is parked)."""
        keeper = self._keepers.pop(run_id, None)
        if keeper is not None:
            keeper.cancel()

    def holds_lease(self, run_id: str) -> bool:
        """Whether this process is keeping the run's lease now."""
        keeper = self._keepers.get(run_id)
        return keeper is not None and not keeper.done()

    async def _keep(self, run_id: str, opened: Opened, outbox: Outbox) -> None:
        lease = opened.info.lease
        if lease is None:
            return
        while True:
            await asyncio.sleep(lease.lease_s / RENEWALS_PER_LEASE)
            try:
                await self.log.renew(run_id, owner=lease.owner, epoch=opened.epoch)
            except (LogUnavailable, *_REFUSING) as error:
                outbox.failed(error)
            except LeaseLost as error:
                outbox.close(error)
                return
            except RunstreamError:
                return  # the run has ended or is gone; its outbox learns that from its next append
            except Exception as error:  # noqa: BLE001 - a log that is broken in its own way
                outbox.failed(RunstreamError(f"the log failed: {error!r}"))
            else:
                outbox.recovered()

    def close(self) -> None:
        """Stop sending. What is still queued is lost, and counted as dropped: drain first."""
        self.portal.close()
        for outbox in self.outboxes:
            outbox.give_up(LogClosed("this process's publishers have been closed"))


def new_producer_id() -> str:
    """Drawn at random: nobody else uses it, so it needs no opening."""
    return secrets.token_hex(8)
