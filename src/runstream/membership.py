"""Being inside a run: what `start_run` and `attach` share.

Entering opens the run and sets the context; leaving writes what the membership ends with and waits until
that is stored. Both survive being cancelled at any point: what was begun is then finished, or undone, in
the background, and nothing waits for ever. The process keeps its publisher for the next one, as after any
run, until `close_publishers` or its exit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from concurrent.futures import Future
from contextvars import Token
from types import TracebackType
from typing import Self

from . import process
from .context import Outlet, Scope, current_scope
from .errors import InvalidInput, LogClosed, LogUnavailable, RunstreamError
from .logs import canonical_url
from .outbox import Outbox
from .publisher import Publisher
from .record import check_run_id
from .settings import Settings, environment_with, read_settings

logger = logging.getLogger(__name__)


class Membership:
    """A place in a run: a context manager, sync and async, inside which `publish` goes to that run."""

    def __init__(self, run_id: str, url: str | None) -> None:
        self.run_id = check_run_id(run_id)
        self.settings: Settings = read_settings()
        self.url = canonical_url(url or self.settings.url)
        self._outlet: Outlet | None = None
        # Set only where the outbox is this membership's own, not its parent run's.
        self._outbox: Outbox | None = None
        self._publisher: Publisher | None = None
        self._token: Token[Scope | None] | None = None
        self._pid = 0

    def __enter__(self) -> Self:
        self._prepare()
        publisher = self._publisher = process.publisher(self.url, self.settings)
        joining = publisher.portal.submit(self._join(publisher))
        try:
            joining.result()
            self._begin()
        except BaseException:
            self._withdraw(publisher, joining)
            raise
        return self

    async def __aenter__(self) -> Self:
        self._prepare()
        # (Only the first one waits for the disk; a thread would cost the others more than all the rest.)
        publisher = process.open_publisher(self.url)
        if publisher is None:
            publisher = await asyncio.to_thread(process.publisher, self.url, self.settings)
        self._publisher = publisher
        joining = publisher.portal.submit(self._join(publisher))
        try:
            await publisher.portal.wait(joining)
            self._begin()
        except BaseException:
            self._withdraw(publisher, joining)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        finishing = self._leave(error)
        if finishing is not None:
            self._conclude(finishing.result(), error)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        finishing = self._leave(error)
        if finishing is not None and self._publisher is not None:
            self._conclude(await self._publisher.portal.wait(finishing), error)

    # What the two kinds of membership differ in.

    def _prepare(self) -> None:
        """In the caller's context, before anything is opened."""
        if self._outlet is not None:
            raise InvalidInput(f"this place in run {self.run_id!r} has been entered already")

    async def _join(self, publisher: Publisher) -> None:
        """In the publisher's loop: open the run and set `_outlet` (and `_outbox`)."""
        raise NotImplementedError

    def _scope(self, outlet: Outlet) -> Scope:
        raise NotImplementedError

    def _first_record(self, outlet: Outlet) -> None:
        """Queue what the membership begins with."""

    def _last_record(self, outlet: Outlet, error: BaseException | None) -> None:
        """Queue what the membership ends with."""

    def _take_back(self, outlet: Outlet) -> None:
        """Queue what undoes a joining that nobody waits for any more."""

    async def _released(self, publisher: Publisher) -> None:
        """In the publisher's loop, after the last record is stored."""

    # What they share.

    def _begin(self) -> None:
        outlet = self._joined
        self._pid = os.getpid()
        self._first_record(outlet)
        self._token = current_scope.set(self._scope(outlet))

    def _withdraw(self, publisher: Publisher, joining: Future[None]) -> None:
        """Entering was interrupted: undo the joining, should it still succeed."""

        async def undo() -> None:
            try:
                await asyncio.wrap_future(joining)
            except Exception:  # noqa: BLE001 - it has not joined: nothing to undo
                return
            outlet = self._joined
            with contextlib.suppress(RunstreamError):
                self._take_back(outlet)
            await self._finish(publisher, outlet)

        with contextlib.suppress(LogClosed):
            publisher.portal.submit(undo())

    def _leave(self, error: BaseException | None) -> Future[RunstreamError | None] | None:
        """Leave the context and queue the last record; what then goes on in the publisher's loop."""
        outlet, publisher = self._joined, self._publisher
        if self._token is not None:
            # (Entered and left in different contexts, as some test fixtures do, there is nothing to reset.)
            with contextlib.suppress(ValueError):
                current_scope.reset(self._token)
            self._token = None
        if os.getpid() != self._pid or publisher is None:
            # A forked child leaves the block too: the run goes on in the parent.
            with contextlib.suppress(TimeoutError):
                outlet.ticket().result(self.settings.end_timeout_s)
            return None
        refusal: RunstreamError | None = None
        try:
            self._last_record(outlet, error)
        except RunstreamError as refused:  # the run was lost, fenced or ended meanwhile
            refusal = refused
        try:
            return publisher.portal.submit(self._finish(publisher, outlet, refusal))
        except LogClosed as closed:
            done: Future[RunstreamError | None] = Future()
            done.set_result(refusal or closed)
            return done

    async def _finish(
        self, publisher: Publisher, outlet: Outlet, refusal: RunstreamError | None = None
    ) -> RunstreamError | None:
        """Wait until all is stored, then let go of the run; why that could not be, if so."""
        ticket = asyncio.wrap_future(outlet.ticket())
        await asyncio.wait([ticket], timeout=self.settings.end_timeout_s)
        if not ticket.done():
            ticket.cancel()
            # What is queued is still tried for as long as the process lives, and the lease kept.
            return LogUnavailable(
                f"run {self.run_id!r}: its last records could not be stored within "
                f"{self.settings.end_timeout_s:g} s"
            )
        if refusal is None and not ticket.result():
            refusal = outlet.closed_by
        with contextlib.suppress(
            RunstreamError
        ):  # lost or ended meanwhile: nothing left to let go of
            await self._released(publisher)
        if self._outbox is not None:
            if self._outbox.muted and self._outbox.failing is not None:
                # Whoever does not want the records must not cost the work that they tell of.
                self._outbox.give_up(self._outbox.failing)
                refusal = None
            elif self._outbox.closed_by is None:
                self._outbox.close(LogClosed(f"this place in run {self.run_id!r} has been left"))
            publisher.remove_outbox(self._outbox)
            process.count_past(self._outbox.counts)
        return refusal

    def _conclude(self, refusal: RunstreamError | None, error: BaseException | None) -> None:
        """An error on its way out of the block must not be replaced by ours."""
        if refusal is None:
            return
        if error is None:
            raise refusal
        logger.warning("run %s: its end could not be recorded: %s", self.run_id, refusal)

    @property
    def _joined(self) -> Outlet:
        if self._outlet is None:
            raise RunstreamError("enter the run first: `with start_run(...) as run:`")
        return self._outlet

    def environment(self) -> dict[str, str]:
        """This process's environment plus `RUNSTREAM_RUN`, for a subprocess that publishes here."""
        return environment_with(self._scope(self._joined).as_child_run())
