"""The handler: one run as seen from outside it, in this process or any other."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Iterable
from typing import Any

from .errors import (
    RunCancelled,
    RunFailed,
    RunLost,
    RunNotFound,
    RunstreamError,
    RunTimedOut,
)
from .events import RESERVED_PREFIXES, Event, StopEvent, event_class
from .filter import Names, make_filter
from .fold import TaskFold, TaskState
from .log import Log, Producer, RunInfo, Status
from .payload import encode_payload
from .publisher import new_producer_id
from .record import DROPPED, GAP, TERMINAL_KINDS, Cursor, Record, make_draft
from .start import Start, make_start
from .subscription import OpenLog, Subscription


class Handler:
    """Follow, await, signal or cancel a run. Awaiting it gives the run's result."""

    def __init__(self, log: Log | OpenLog, run_id: str) -> None:
        self.run_id = run_id
        self._log = log
        self._info: RunInfo | None = None

    def __await__(self) -> Generator[Any, None, Any]:
        return self.result().__await__()

    async def result(self) -> Any:
        """Wait for the run's end; its result. Cancelling this does not cancel the run.

        Raises:
            RunFailed, RunCancelled, RunTimedOut, RunLost: how else it ended.
            RunNotFound: no such run.
        """
        info = await self.info()
        # A run that goes on has no end to look for in what is stored. That of an ended one is nearly always
        # among the newest records; a child's may lie anywhere.
        newest = Start(after=Cursor(info.generation, info.last_seq))
        starts = (Start(last=1), Start()) if info.has_ended else (newest,)
        wanted = make_filter(kinds=sorted(TERMINAL_KINDS))
        for start in starts:
            async with Subscription(self._log, self.run_id, filter=wanted, start=start) as records:
                async for record in records:
                    if record.is_terminal and record.run_id == self.run_id:
                        await self.info()
                        return outcome(record)
        raise RunNotFound(f"run {self.run_id!r} was removed before it ended")

    async def stream_events(
        self, expose_internal: bool = False, *, classes: Iterable[type[Event]] = ()
    ) -> AsyncGenerator[Event, None]:
        """Typed events, from the start of the run until its end.

        A kind becomes an event of the newest class of that kind in this process; `classes` decides
        where there are several.

        Any number of times, also at once: each call has its own position. `expose_internal` adds the
        lifecycle of the run, its steps and its tasks. Gaps and drops are always shown.
        """
        given = tuple(classes)
        async for record in self.subscribe():
            internal = record.kind.startswith(RESERVED_PREFIXES)
            ends = record.is_terminal and record.run_id == self.run_id
            if expose_internal or not internal or ends or record.kind in (GAP, DROPPED):
                known = (*given, *self._event_classes())
                yield (_stop_event(record, known) if ends else None) or record.as_event(*known)

    def subscribe(
        self,
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
        """The run's records: see `Streams.subscribe`."""
        return Subscription(
            self._log,
            self.run_id,
            filter=make_filter(
                kinds=kinds, topics=topics, steps=steps, correlation_ids=correlation_ids
            ),
            start=make_start(from_seq, after, last),
            follow=follow,
            wait=wait,
        )

    async def tasks(
        self,
        topic: str | None = None,
        *,
        from_seq: int | None = None,
        after: str | None = None,
        last: int | None = None,
        follow: bool = True,
    ) -> AsyncGenerator[TaskState, None]:
        """The state of the run's tasks after every change, of one topic or of all. Those that are open
        when their run ends come once more, as `lost`.

        From a later start, a task is shown from its first full state on.
        """
        fold = TaskFold()
        async for record in self.subscribe(
            topics=topic, from_seq=from_seq, after=after, last=last, follow=follow
        ):
            for task in fold.feed(record):
                yield task

    async def cursor(self) -> str:
        """The position of the newest record, for `after=`: "only what comes from now on"."""
        info = await self.info()
        return str(Cursor(info.generation, info.last_seq))

    async def send_event(self, event: Event) -> None:
        """Send an event into the run (a signal). It is stored: the runner gets it also after a crash.

        Raises:
            RunEnded, RunNotFound: nobody could receive it.
        """
        await self._send("run.signal", {"type": event.event_type, "event": event})

    async def cancel_run(self, reason: str | None = None) -> None:
        """Ask the process that runs it to cancel the run. Returns when the request is stored."""
        await self._send("run.cancel_requested", {"reason": reason})

    async def info(self) -> RunInfo:
        """What the log knows of the run now."""
        self._info = await (await self._opened()).info(self.run_id)
        return self._info

    @property
    def status(self) -> Status | None:
        """The status when this handler last heard of it; `(await handler.info()).status` is newer."""
        return self._info.status if self._info else None

    def is_done(self) -> bool:
        """Whether this handler has heard of the run's end."""
        return self._info is not None and self._info.has_ended

    def _event_classes(self) -> tuple[type[Event], ...]:
        """Classes that the run is known to use."""
        return ()

    async def _send(self, kind: str, data: dict[str, object]) -> None:
        draft = make_draft(self.run_id, kind, encode_payload(data))
        producer = Producer(new_producer_id(), epoch=0, number=1)
        await (await self._opened()).append(self.run_id, [draft], producer=producer)

    async def _opened(self) -> Log:
        return await self._log() if callable(self._log) else self._log


def outcome(record: Record) -> Any:
    """The result that a terminal record tells of, or the exception.

    Raises:
        RunFailed, RunCancelled, RunTimedOut, RunLost
    """
    data: dict[str, Any] = record.data
    match record.kind:
        case "run.completed":
            stop = _stop_event(record)
            return data.get("result") if stop is None else stop
        case "run.failed":
            error: dict[str, Any] = data.get("exception") or {}
            raise RunFailed(
                f"run {record.run_id!r} failed: {error.get('type')}: {error.get('message')}",
                error=error,
            )
        case "run.cancelled":
            raise RunCancelled(f"run {record.run_id!r} was cancelled")
        case "run.timed_out":
            raise RunTimedOut(f"run {record.run_id!r} exceeded its {data.get('timeout')} s")
        case "run.lost":
            raise RunLost(f"run {record.run_id!r} was lost: {data.get('reason')}")
        case _:
            raise RunstreamError(f"not a terminal record: {record.kind}")


def _stop_event(record: Record, classes: Iterable[type[Event]] = ()) -> StopEvent | None:
    """The StopEvent of its own kind that a run ended with, if it did and this process knows the class."""
    if record.kind != "run.completed" or "event" not in record.data:
        return None
    kind = event_class(record.data["event"], tuple(classes))
    if not issubclass(kind, StopEvent) or record.data.get("result") is None:
        return None  # this process doesn't know the class, or the event was not JSON
    event = kind.model_validate(record.data["result"])
    object.__setattr__(event, "__event_record__", record)
    return event
