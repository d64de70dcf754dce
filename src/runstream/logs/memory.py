"""The memory log: the contract in its plainest form, and the model that other logs are tested against.

Lives as long as the process. Safe to use from several event loops and threads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..admission import (
    LEASE_LAPSED,
    PARENT_ENDED,
    admit,
    cannot_begin_again,
    check_batch,
    check_children,
    check_limit,
    check_open,
    check_owner,
    check_position,
    check_removable,
    lost_draft,
    new_generation,
    no_such_run,
    renewed_lease,
    stalled_draft,
    stalled_lease,
)
from ..bell import Bell
from ..errors import LeaseHeld, LogClosed, RunEnded
from ..log import (
    LIST_LIMIT_MAX,
    READ_LIMIT_DEFAULT,
    READ_LIMIT_MAX,
    STATUS_BY_KIND,
    Appended,
    Lease,
    LeaseClaim,
    Opened,
    Page,
    Producer,
    ProducerState,
    RunInfo,
    Status,
)
from ..record import Cursor, Draft, now_us
from ..retention import Retention
from . import refuse_unknown, retention_option


@dataclass(slots=True)
class _Run:
    run_id: str
    root_run_id: str
    parent_run_id: str | None
    workflow: str
    created: int
    status: Status = "running"
    ended: int | None = None
    lease: Lease | None = None


@dataclass(slots=True)
class _Stream:
    generation: str
    first_seq: int = 1
    drafts: list[Draft] = field(default_factory=list[Draft])
    producers: dict[str, ProducerState] = field(default_factory=dict[str, ProducerState])
    children: dict[str, _Run] = field(default_factory=dict[str, _Run])
    retention: Retention | None = None

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.drafts) - 1

    def status_of(self, child: str) -> Status | None:
        run = self.children.get(child)
        return None if run is None else run.status


def open_url(address: str, options: dict[str, str]) -> MemoryLog:  # noqa: ARG001 - see below
    """`memory:` or `memory:NAME`, with `?retention=` as for files; the name only tells logs of one process
    apart.
    """
    refuse_unknown(options, ("retention",))
    return MemoryLog(retention_option(options))


class MemoryLog:
    """Dicts, a lock and a bell."""

    def __init__(self, retention_s: float | None = None) -> None:
        self._retention_s = retention_s
        # Roots in the order of their ends, by this clock.
        self._ended: deque[tuple[float, _Run]] = deque()
        self._lock = threading.Lock()
        self._bell = Bell()
        self._runs: dict[str, _Run] = {}
        self._streams: dict[str, _Stream] = {}
        self._closed = False

    async def open(
        self,
        run_id: str,
        *,
        producer: str | None,
        workflow: str | None = None,
        parent_run_id: str | None = None,
        claim: LeaseClaim | None = None,
    ) -> Opened:
        check_open(run_id, producer, workflow, parent_run_id, claim)
        with self._lock:
            self._check_open()
            created = run_id not in self._runs
            if created:
                self._age_out()
                self._create(run_id, workflow, parent_run_id)
            run, stream = self._find(run_id)
            if run.ended is not None:
                raise cannot_begin_again(run_id, run.status)
            if claim and run.lease and run.status == "running" and run.lease.owner != producer:
                raise LeaseHeld(f"run {run_id!r} is being run by {run.lease.owner!r}")
            before = ProducerState()
            epoch = 0
            if producer is not None:
                before = stream.producers.get(producer, before)
                epoch = before.epoch + 1
                stream.producers[producer] = _with_epoch(before, epoch)
            if claim and producer is not None:
                counter = run.lease.counter + 1 if run.lease else 1
                run.lease = Lease(producer, epoch, counter, claim.lease_s, claim.grace_s)
                run.status = "running"
            opened = Opened(self._info(run), epoch, before.number, created)
        self._bell.ring([run_id])
        return opened

    def _create(self, run_id: str, workflow: str | None, parent_run_id: str | None) -> None:
        if workflow is None:
            raise no_such_run(run_id)
        if parent_run_id is None:
            self._streams[run_id] = _Stream(new_generation())
            self._runs[run_id] = _Run(run_id, run_id, None, workflow, now_us())
            return
        parent, stream = self._find(parent_run_id)
        if parent.ended is not None:
            raise RunEnded(f"the parent run {parent_run_id!r} has ended ({parent.status})")
        run = _Run(run_id, parent.root_run_id, parent_run_id, workflow, now_us())
        self._runs[run_id] = run
        stream.children[run_id] = run

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        with self._lock:
            self._check_open()
            run, stream = self._find(run_id)
            check_batch(drafts, root_run_id=run.root_run_id, final=final)
            state = ProducerState()
            if producer is not None:
                state, answer = admit(stream.producers.get(producer.id), producer, len(drafts))
                if answer is not None:
                    return answer
            root = self._runs[run.root_run_id]
            if root.ended is not None:
                raise RunEnded(f"run {root.run_id!r} has ended ({root.status})")
            check_children(drafts, root_run_id=run.root_run_id, status_of=stream.status_of)
            first = stream.last_seq + 1
            self._store(stream, drafts[:-1])
            if final:
                self._lose_children(stream)
            self._store(stream, drafts[-1:])
            last = stream.last_seq
            if producer is not None:
                number = producer.number + len(drafts) - 1
                stream.producers[producer.id] = ProducerState(
                    state.epoch, number, producer.number, first, last
                )
                if root.lease and root.lease.owner == producer.id:
                    root.lease = renewed_lease(root.lease)
        self._bell.ring([root.run_id])
        return Appended(first, last)

    def _lose_children(self, stream: _Stream) -> None:
        running = [child for child in stream.children.values() if child.ended is None]
        self._store(stream, [lost_draft(child.run_id, PARENT_ENDED) for child in reversed(running)])

    def _store(self, stream: _Stream, drafts: Sequence[Draft]) -> None:
        stream.drafts.extend(drafts)
        for draft in drafts:
            status = STATUS_BY_KIND.get(draft.kind)
            if status is not None and draft.run_id in self._runs:
                run = self._runs[draft.run_id]
                run.status = status
                if draft.is_terminal:
                    run.ended = now_us()
                    if run.run_id == run.root_run_id:
                        self._ended.append((time.monotonic(), run))

    async def read(self, run_id: str, *, after: Cursor, limit: int = READ_LIMIT_DEFAULT) -> Page:
        limit = check_limit(limit, READ_LIMIT_MAX)
        with self._lock:
            self._check_open()
            run, stream = self._find(run_id)
            check_position(self._info(run), after)
            start = after.seq + 1 - stream.first_seq
            drafts = stream.drafts[start : start + limit]
            at_end = after.seq + len(drafts) == stream.last_seq
            ended = self._runs[run.root_run_id].ended is not None and at_end
            return Page(stream.generation, after.seq + 1, drafts, ended)

    async def wait(self, run_id: str, *, after: int, timeout: float) -> None:
        run = self._runs.get(run_id)
        with self._bell.listen(run.root_run_id if run else run_id) as listener:
            with self._lock:
                self._check_open()
                if self._runs.get(run_id) is not run:
                    return  # opened or removed just now
                if run is not None:
                    root = self._runs[run.root_run_id]
                    if self._streams[root.run_id].last_seq > after or root.ended is not None:
                        return
            await listener.wait(timeout)
        with self._lock:
            self._check_open()

    async def info(self, run_id: str) -> RunInfo:
        with self._lock:
            self._check_open()
            return self._info(self._find(run_id)[0])

    async def renew(self, run_id: str, *, owner: str, epoch: int) -> None:
        with self._lock:
            self._check_open()
            run, _ = self._find(run_id)
            check_owner(run.lease, run_id, owner, epoch)
            if run.lease is not None:
                run.lease = renewed_lease(run.lease)

    async def release(self, run_id: str, *, owner: str, epoch: int) -> None:
        with self._lock:
            self._check_open()
            run, _ = self._find(run_id)
            check_owner(run.lease, run_id, owner, epoch)
            run.lease = None

    async def expire(self, run_id: str, *, lease: Lease) -> RunInfo:
        with self._lock:
            self._check_open()
            run, stream = self._find(run_id)
            if run.lease != lease or run.ended is not None or run.status == "waiting":
                return self._info(run)
            fenced = stream.producers.get(lease.owner, ProducerState())
            epoch = fenced.epoch + 1
            stream.producers[lease.owner] = _with_epoch(fenced, epoch)
            if run.status == "running" and lease.grace_s > 0:
                run.lease = stalled_lease(lease, epoch)
                self._store(stream, [stalled_draft(run_id, lease.grace_s)])
            else:
                if run_id == run.root_run_id:
                    self._lose_children(stream)
                self._store(stream, [lost_draft(run_id, LEASE_LAPSED)])
            info = self._info(run)
        self._bell.ring([run.root_run_id])
        return info

    async def trim(self, run_id: str, *, through: int) -> None:
        with self._lock:
            self._check_open()
            _, stream = self._find(run_id)
            count = min(through, stream.last_seq) - stream.first_seq + 1
            if count > 0:
                del stream.drafts[:count]
                stream.first_seq += count

    async def retain(self, run_id: str, retention: Retention | None) -> None:
        with self._lock:
            self._check_open()
            self._find(run_id)[1].retention = retention

    async def retained(self) -> Mapping[str, Retention]:
        with self._lock:
            self._check_open()
            return {
                run_id: stream.retention
                for run_id, stream in self._streams.items()
                if stream.retention is not None
            }

    async def remove(self, run_id: str) -> None:
        with self._lock:
            self._check_open()
            run, stream = self._find(run_id)
            check_removable(self._info(run))
            self._forget(run, stream)
        self._bell.ring([run_id])

    async def list(
        self,
        *,
        workflow: str | None = None,
        status: Status | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[RunInfo]:
        limit = check_limit(limit, LIST_LIMIT_MAX)
        with self._lock:
            self._check_open()
            runs = list(reversed(self._runs.values()))
            if before is not None:
                runs = runs[runs.index(self._find(before)[0]) + 1 :]
            chosen = [
                run
                for run in runs
                if workflow in (None, run.workflow) and status in (None, run.status)
            ]
            return [self._info(run) for run in chosen[:limit]]

    async def aclose(self) -> None:
        self.close()

    def close(self) -> None:
        """As `aclose()`, for the interpreter's exit."""
        with self._lock:
            self._closed = True
        self._bell.ring_all()

    def _age_out(self) -> None:
        """Forget finished runs whose time is over; when a run comes is often enough to bound them."""
        if self._retention_s is None:
            return
        before = time.monotonic() - self._retention_s
        while self._ended and self._ended[0][0] <= before:
            _, run = self._ended.popleft()
            if self._runs.get(run.run_id) is run:
                self._forget(run, self._streams[run.run_id])
                self._bell.ring([run.run_id])

    def _forget(self, run: _Run, stream: _Stream) -> None:
        for gone in (run.run_id, *stream.children):
            del self._runs[gone]
        del self._streams[run.run_id]

    def _check_open(self) -> None:
        if self._closed:
            raise LogClosed("this memory log has been closed")

    def _find(self, run_id: str) -> tuple[_Run, _Stream]:
        run = self._runs.get(run_id)
        if run is None:
            raise no_such_run(run_id)
        return run, self._streams[run.root_run_id]

    def _info(self, run: _Run) -> RunInfo:
        stream = self._streams[run.root_run_id]
        return RunInfo(
            run_id=run.run_id,
            root_run_id=run.root_run_id,
            parent_run_id=run.parent_run_id,
            workflow=run.workflow,
            status=run.status,
            generation=stream.generation,
            first_seq=stream.first_seq,
            last_seq=stream.last_seq,
            created=run.created,
            ended=run.ended,
            lease=run.lease,
        )


def _with_epoch(state: ProducerState, epoch: int) -> ProducerState:
    return ProducerState(epoch, state.number, state.batch_number, state.first_seq, state.last_seq)
