"""The NATS log: JetStream streams for any number of processes and machines (nats-server 2.9 or newer).

Each run's stream is a subject; each message of it is stored only behind the one that its writer has seen,
so numbers are dense and zombies are fenced without a lock. One connection for a process, however many
streams are written and followed.

The file is as long as the contract: each of its verbs is here twice, for any loop and in the log's own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar, TypeVarTuple, Unpack

from ..admission import check_limit, check_open, check_removable
from ..bell import Bell
from ..errors import InvalidURL, LogUnavailable, RunNotFound
from ..log import (
    LIST_LIMIT_MAX,
    READ_LIMIT_DEFAULT,
    READ_LIMIT_MAX,
    Appended,
    Lease,
    LeaseClaim,
    Opened,
    Page,
    Producer,
    RunInfo,
    Status,
)
from ..own_loop import OwnLoop
from ..record import Cursor, Draft
from ..retention import Retention
from . import refuse_unknown, requires_durable, retention_option
from .nats_line import Line
from .nats_list import Lists
from .nats_refusals import StreamGone
from .nats_runs import Runs
from .nats_state import Pending
from .nats_stream import Stream
from .nats_subjects import NAME_DEFAULT, Subjects
from .nats_url import parse_servers
from .nats_wakeups import Wakeups

# Streams whose state this process keeps; one that is asked for again is read in a millisecond.
STREAMS_MAX: Final = 1000
# A wake-up may be lost with its sender; a waiter looks by itself this often.
LOOK_S: Final = 2.0
REPLICAS_MAX: Final = 5

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

logger = logging.getLogger(__name__)


def open_url(address: str, options: dict[str, str]) -> NatsLog:
    """`nats://[USER:PASSWORD@]HOST[:PORT][,HOST…][/NAME]`, with `?replicas=` (at least; 1 if the streams
    are made now), `?retention=` as for SQLite, and `?require=durable`.
    """
    refuse_unknown(options, ("replicas", "retention", "require"))
    replicas = options.get("replicas")
    if replicas is not None and replicas not in map(str, range(1, REPLICAS_MAX + 1)):
        raise InvalidURL(f"replicas is a number from 1 to {REPLICAS_MAX}, not {replicas!r}")
    servers, shown, name, secrets = parse_servers(address)
    return NatsLog(
        Line(servers, shown, secrets),
        Subjects(name or NAME_DEFAULT),
        shown=shown,
        replicas=None if replicas is None else int(replicas),
        retention_s=retention_option(options),
        must_last=requires_durable(options),
    )


class NatsLog:
    """The log contract on JetStream. Opening blocks; everything else is async, from any event loop."""

    def __init__(
        self,
        line: Line,
        subjects: Subjects,
        *,
        shown: str,
        replicas: int | None,
        retention_s: float | None,
        must_last: bool,
    ) -> None:
        self._line, self._subjects, self._shown = line, subjects, shown
        self._replicas, self._retention_s = replicas or 1, retention_s
        self._bell = Bell()
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._roots: OrderedDict[str, str] = OrderedDict()
        self._wakeups = Wakeups(line, subjects, self._bell)
        self._cleaning: asyncio.Task[None] | None = None
        self._runs = Runs(line, subjects)
        self._lists = Lists(self._runs, self._info_in)
        self._loop = OwnLoop("nats", shown)
        self._loop.open(self._connect(wanted=replicas, must_last=must_last), line.close)

    def __repr__(self) -> str:
        return f"<NatsLog {self._shown}/{self._subjects.name}>"

    @property
    def promise(self) -> str:
        """What an acknowledged append survives, in words."""
        lost = "what the servers had not synced (sync_interval, two minutes unless it is set)"
        if self._replicas > 1:
            minority = (self._replicas - 1) // 2
            return (
                f"stored in the files of a majority of {self._replicas} servers: survives the crash of "
                f"all of them, and goes on without {minority}; power cuts may take {lost}"
            )
        return (
            "stored in the file of one server: survives a crash of the server; a power cut may take "
            + lost.replace("servers", "server")
        )

    async def _connect(self, *, wanted: int | None, must_last: bool) -> None:
        await self._line.connect()
        self._replicas = await self._runs.create(self._replicas)
        if wanted is not None and self._replicas < wanted:
            raise InvalidURL(
                f"replicas={wanted}, but the log at {self._shown} has {self._replicas}: have NATS change "
                f"its streams ({self._subjects.name} and {self._subjects.runs})"
            )
        if must_last:
            raise InvalidURL(
                f"require=durable, but of NATS at {self._shown}: {self.promise}; SQLite, Redis and "
                "PostgreSQL can be durable"
            )

    # --- runs ------------------------------------------------------------------------------------

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
        return await self._run(self._open, run_id, producer, workflow, parent_run_id, claim)

    async def _open(
        self,
        run_id: str,
        producer: str | None,
        workflow: str | None,
        parent_run_id: str | None,
        claim: LeaseClaim | None,
    ) -> Opened:
        self._keep_clean()

        def decide(pending: Pending) -> Opened:
            return pending.open(run_id, producer, workflow, parent_run_id, claim)

        try:
            root, opened = await self._open_there(run_id, workflow, parent_run_id, decide)
        except (StreamGone, RunNotFound) as error:
            if isinstance(error, StreamGone):  # somebody has emptied the server
                self._roots.clear()
                await self._runs.create(self._replicas)
            elif self._roots.pop(run_id, None) is None:
                raise
            # (Else it was removed elsewhere, and may be begun again.)
            root, opened = await self._open_there(run_id, workflow, parent_run_id, decide)
        self._remember_root(run_id, root)
        if run_id != root:  # (of its root the stream has told)
            await self._wakeups.tell(run_id)
            self._bell.ring([run_id])
        return opened

    async def _open_there(
        self,
        run_id: str,
        workflow: str | None,
        parent_run_id: str | None,
        decide: Callable[[Pending], Opened],
    ) -> tuple[str, Opened]:
        known = self._roots.get(run_id)
        is_new = False
        if known is not None:
            root = known
        elif workflow is None:
            root = await self._root_of(run_id)
        else:
            root, is_new = await self._bear(run_id, workflow, parent_run_id)
        opened = await self._stream(root).decide(decide)
        if opened.created and not is_new and workflow is not None:
            await self._runs.bear_again(run_id, root, workflow)
        return root, opened

    async def _bear(
        self, run_id: str, workflow: str, parent_run_id: str | None
    ) -> tuple[str, bool]:
        """In whose stream a run is that is begun now, or was before; and whether it is new."""
        root = run_id
        if parent_run_id is not None:
            try:
                root = await self._root_of(parent_run_id)
                await self._stream(root).info(parent_run_id)
            except RunNotFound:
                self._roots.pop(parent_run_id, None)
                return await self._root_of(run_id), False
        return await self._runs.bear(run_id, root, workflow)

    async def info(self, run_id: str) -> RunInfo:
        return await self._run(self._info, run_id)

    async def _info(self, run_id: str) -> RunInfo:
        root = await self._root_of(run_id)
        try:
            return await self._stream(root).info(run_id)
        except RunNotFound:
            self._roots.pop(run_id, None)  # removed, and perhaps begun again elsewhere
            raise

    async def renew(self, run_id: str, *, owner: str, epoch: int) -> None:
        await self._decide(run_id, lambda pending: pending.renew(run_id, owner, epoch))

    async def release(self, run_id: str, *, owner: str, epoch: int) -> None:
        await self._decide(run_id, lambda pending: pending.release(run_id, owner, epoch))

    async def expire(self, run_id: str, *, lease: Lease) -> RunInfo:
        return await self._decide(run_id, lambda pending: pending.expire(run_id, lease))

    async def trim(self, run_id: str, *, through: int) -> None:
        await self._decide(run_id, lambda pending: pending.trim(through))
        await self._loop.run(self._drop_trimmed(run_id))

    async def _drop_trimmed(self, run_id: str) -> None:
        await self._stream(await self._root_of(run_id)).drop_trimmed()

    async def retain(self, run_id: str, retention: Retention | None) -> None:
        await self._decide(run_id, lambda pending: pending.retain(retention))
        await self._run(self._keep, run_id, retention)

    async def _keep(self, run_id: str, retention: Retention | None) -> None:
        await self._runs.keep(await self._root_of(run_id), is_kept=retention is not None)

    async def retained(self) -> Mapping[str, Retention]:
        return await self._loop.run(self._runs.retained())

    async def remove(self, run_id: str) -> None:
        await self._loop.run(self._remove(run_id))

    async def _remove(self, run_id: str) -> None:
        root = await self._root_of(run_id)
        stream = self._stream(root)
        check_removable(await stream.info(run_id))
        if self._line.is_replicated:
            await stream.decide(Pending.stand_alone)
        info, state = await stream.info(run_id), stream.state
        await self._runs.remove(info, tuple(state.children), state.at)
        await stream.refresh()
        for gone in (run_id, *stream.state.children):
            self._roots.pop(gone, None)
        await self._wakeups.tell(run_id)

    async def list(
        self,
        *,
        workflow: str | None = None,
        status: Status | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[RunInfo]:
        most = check_limit(limit, LIST_LIMIT_MAX)
        return await self._loop.run(self._list(workflow, status, before, most))

    async def _list(
        self, workflow: str | None, status: Status | None, before: str | None, limit: int
    ) -> Sequence[RunInfo]:
        if before is not None:
            await self._info(before)
        async with self._line.patience.in_time() as begin_anew:
            return await self._lists.list(workflow, status, before, limit, begin_anew)

    async def _info_in(self, root: str, run_id: str) -> RunInfo:
        return await self._stream(root).info(run_id)

    # --- records ---------------------------------------------------------------------------------

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        batch = tuple(drafts)
        return await self._decide(
            run_id, lambda pending: pending.append(batch, producer, final=final)
        )

    async def read(self, run_id: str, *, after: Cursor, limit: int = READ_LIMIT_DEFAULT) -> Page:
        limit = check_limit(limit, READ_LIMIT_MAX)
        return await self._run(self._read, run_id, after, limit)

    async def _read(self, run_id: str, after: Cursor, limit: int) -> Page:
        root = await self._root_of(run_id)
        try:
            return await self._stream(root).read(after, limit)
        except RunNotFound:
            self._roots.pop(run_id, None)  # removed, and perhaps begun again elsewhere
            raise

    async def wait(self, run_id: str, *, after: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        # (Of a child we hear in its root's stream; what is not known here may be opened right now.)
        watched = self._roots.get(run_id)
        is_there = was_there = watched is not None
        has_news = False
        with self._bell.listen(watched or run_id) as listener:
            self._loop.check_open()
            # (Of what goes wrong whoever waits will hear: it is about to read.)
            with contextlib.suppress(LogUnavailable, TimeoutError):
                async with asyncio.timeout(timeout):
                    is_there, has_news = await self._loop.run(self._look(watched or run_id, after))
            left = deadline - time.monotonic()
            if not has_news and is_there == was_there and left > 0:
                # (It may end for nothing: whoever waits looks.)
                await listener.wait(min(left, LOOK_S))
        self._loop.check_open()

    async def _look(self, run_id: str, after: int) -> tuple[bool, bool]:
        """Hear of a run from now on; whether it is there, and has something behind `after`, now."""
        await self._wakeups.hear(run_id)
        try:
            info = await self._info(run_id)
        except RunNotFound:
            return False, False
        return True, info.last_seq > after or info.has_ended

    # --- what they share -------------------------------------------------------------------------

    async def _run(self, work: Callable[[Unpack[Ts]], Awaitable[T]], *args: *Ts) -> T:
        """Do it in the log's own loop, within the time of one answer: it may ask several questions, and wait
        for those of others.
        """

        async def run_in_time() -> T:
            async with self._line.patience.in_time():
                return await work(*args)

        return await self._loop.run(run_in_time())

    async def _decide(self, run_id: str, decide: Callable[[Pending], T]) -> T:
        return await self._run(self._decide_here, run_id, decide)

    async def _decide_here(self, run_id: str, decide: Callable[[Pending], T]) -> T:
        root = await self._root_of(run_id)

        def decide_if_there(pending: Pending) -> T:
            pending.info(run_id)
            return decide(pending)

        try:
            return await self._stream(root).decide(decide_if_there)
        except RunNotFound:
            self._roots.pop(run_id, None)  # removed, and perhaps begun again elsewhere
            raise

    def _stream(self, root: str) -> Stream:
        stream = self._streams.get(root)
        if stream is None:
            stream = Stream(self._line, self._subjects, root, self._grown)
            self._streams[root] = stream
            if len(self._streams) > STREAMS_MAX:
                self._streams.popitem(last=False)
        else:
            self._streams.move_to_end(root)
        return stream

    def _grown(self, stream: Stream) -> None:
        self._bell.ring([stream.root_run_id])

    async def _root_of(self, run_id: str) -> str:
        """Raises RunNotFound."""
        known = self._roots.get(run_id)
        if known is None:
            known = await self._runs.root_of(run_id)
            self._remember_root(run_id, known)
        return known

    def _remember_root(self, run_id: str, root: str) -> None:
        self._roots[run_id] = root
        if len(self._roots) > 10 * STREAMS_MAX:
            self._roots.popitem(last=False)

    def _keep_clean(self) -> None:
        if self._cleaning is None and self._retention_s is not None:
            # Not before: a process that only looks at a log changes nothing in it.
            self._cleaning = asyncio.ensure_future(
                self._runs.keep_clean(self._retention_s, self._remove)
            )

    # --- the end ---------------------------------------------------------------------------------

    async def aclose(self) -> None:
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """As `aclose()`, blocking: at the interpreter's exit there is no loop and no new thread."""
        self._loop.close(self._shut_down)

    async def _shut_down(self) -> None:
        self._bell.ring_all()
        if self._cleaning is not None:
            self._cleaning.cancel()
        await self._line.close()
