"""The same verbs for plain code: each call runs in a background loop and blocks until it is done."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Generator, Iterator
from types import TracebackType
from typing import Any, Self, TypeVar

from .errors import LogClosed
from .events import Event
from .filter import Names
from .fold import TaskState
from .handler import Handler
from .log import RunInfo, Status
from .portal import Portal
from .record import Record
from .streams import Streams
from .subscription import Subscription

T = TypeVar("T")


class SyncSubscription:
    """Records of a run. An iterator; leaving `with` (or closing it) stops it promptly."""

    def __init__(self, portal: Portal, subscription: Subscription) -> None:
        self._records = _flatten(portal, subscription)

    def __iter__(self) -> Iterator[Record]:
        return self._records

    def __next__(self) -> Record:
        return next(self._records)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop; the iterator ends."""
        self._records.close()


class SyncHandler:
    """A run as seen from outside: see `Handler`."""

    def __init__(self, portal: Portal, handler: Handler) -> None:
        self._portal = portal
        self._handler = handler
        self.run_id = handler.run_id

    def result(self) -> Any:
        return self._portal.call(self._handler.result())

    def stream_events(self, expose_internal: bool = False) -> Generator[Event, None, None]:
        return _each(self._portal, self._handler.stream_events(expose_internal))

    def tasks(
        self,
        topic: str | None = None,
        *,
        from_seq: int | None = None,
        after: str | None = None,
        last: int | None = None,
        follow: bool = True,
    ) -> Generator[TaskState, None, None]:
        states = self._handler.tasks(
            topic, from_seq=from_seq, after=after, last=last, follow=follow
        )
        return _each(self._portal, states)

    def cursor(self) -> str:
        return self._portal.call(self._handler.cursor())

    def send_event(self, event: Event) -> None:
        self._portal.call(self._handler.send_event(event))

    def cancel_run(self, reason: str | None = None) -> None:
        self._portal.call(self._handler.cancel_run(reason))

    def info(self) -> RunInfo:
        return self._portal.call(self._handler.info())

    @property
    def status(self) -> Status | None:
        return self._handler.status

    def is_done(self) -> bool:
        return self._handler.is_done()


class SyncStreams:
    """The streams of one log, for code without an event loop: see `Streams`."""

    def __init__(self, portal: Portal, streams: Streams) -> None:
        self._portal = portal
        self._streams = streams

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
    ) -> SyncSubscription:
        subscription = self._streams.subscribe(
            run_id,
            kinds=kinds,
            topics=topics,
            steps=steps,
            correlation_ids=correlation_ids,
            from_seq=from_seq,
            after=after,
            last=last,
            follow=follow,
            wait=wait,
        )
        return SyncSubscription(self._portal, subscription)

    def handler(self, run_id: str) -> SyncHandler:
        return SyncHandler(self._portal, self._streams.handler(run_id))

    def info(self, run_id: str) -> RunInfo:
        return self._portal.call(self._streams.info(run_id))

    def remove_run(self, run_id: str) -> None:
        self._portal.call(self._streams.remove_run(run_id))

    def list_runs(
        self,
        *,
        workflow: str | None = None,
        status: Status | None = None,
        limit: int | None = None,
    ) -> list[RunInfo]:
        return self._portal.call(
            self._streams.list_runs(workflow=workflow, status=status, limit=limit)
        )


def _flatten(portal: Portal, subscription: Subscription) -> Generator[Record, None, None]:
    """A hop to the loop costs more than a record: fetch whole pages."""
    for page in _each(portal, subscription.pages()):
        yield from page


def _each(portal: Portal, items: AsyncGenerator[T, None]) -> Generator[T, None, None]:
    async def following() -> tuple[T] | None:
        async for item in items:
            return (item,)
        return None

    try:
        while (item := portal.call(following())) is not None:
            yield item[0]
    finally:
        with contextlib.suppress(LogClosed):  # the connection went first: nothing is left to stop
            portal.call(items.aclose())
