"""The Redis log: for several machines on one Redis (6.2 or newer), Redis Cluster or Valkey.

An append is one script, so it is atomic, numbered and fenced inside the server. What an acknowledged append
survives is decided by the server's own settings; they are read at opening (`promise`), and
`?require=durable` refuses a server that could lose one. Connections of a process: two to the server, or to
each node of a cluster, and one for wake-ups, however many streams are written and followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from ..admission import check_limit, check_open
from ..bell import Bell
from ..errors import InvalidURL, LogClosed, LogUnavailable, NotALog, RunNotFound
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
from . import redis_records, refuse_unknown, requires_durable, retention_option
from .redis_index import Index
from .redis_keys import VERSION, Keys, known_run_id, workflow_of
from .redis_nodes import Address, Nodes
from .redis_runs import Runs
from .redis_scripts import TRIM
from .redis_server import Server
from .redis_streams import Streams
from .redis_wakeups import Tail, Wakeups

# Closing waits this long for what is on its way.
CLOSING_S_MAX: Final = 1.0
# While the server cannot be asked whether there is news, a waiter comes back to its reader this often.
BLIND_WAIT_S: Final = 0.5
PREFIX_LENGTH_MAX: Final = 64

logger = logging.getLogger(__name__)


def open_url(address: str, options: dict[str, str]) -> RedisLog:
    """`redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, or `rediss://` for TLS, with `?retention=` as for
    SQLite, `?require=durable`, `?prefix=` (of all keys; `runstream`) and `?ca_file=` (certificates).
    """
    refuse_unknown(options, ("retention", "require", "prefix", "ca_file"))
    durable = requires_durable(options)
    prefix = options.get("prefix", "runstream")
    if not prefix.isprintable() or not 0 < len(prefix) <= PREFIX_LENGTH_MAX or "{" in prefix:
        raise InvalidURL(f"not a prefix for keys: {prefix!r}")
    place = Address.parse(address, options.get("ca_file"))
    return RedisLog(
        place, Keys(prefix, place.db), retention_s=retention_option(options), must_last=durable
    )


class RedisLog:
    """The log contract on a Redis. Opening blocks; everything else is async, from any event loop."""

    def __init__(
        self,
        address: Address,
        keys: Keys,
        *,
        retention_s: float | None = None,
        must_last: bool = False,
    ) -> None:
        self._address = address
        self._keys = keys
        self._retention_s = retention_s
        self._bell = Bell()
        self._nodes = Nodes(address)
        self._streams = Streams(self._nodes, keys)
        self._index = Index(self._streams)
        self._runs = Runs(self._streams, self._index)
        # What calls have left to be done.
        self._left: set[asyncio.Task[None]] = set()
        self._cleaning: asyncio.Task[None] | None = None
        self._loop = OwnLoop("redis", str(address))
        self._loop.open(self._connect(must_last=must_last), lambda: self._nodes.close(0))
        self._wakeups = Wakeups(
            self._nodes.some_connection,
            keys.channel,
            self._bell,
            self._look_at if self._nodes.is_cluster else None,
        )

    def __repr__(self) -> str:
        return f"<RedisLog {self._address}/{self._address.db}>"

    @property
    def promise(self) -> str:
        """What the server's settings make of an acknowledged append, in words."""
        return self._server.promise

    async def _connect(self, *, must_last: bool) -> None:
        self._server: Server = await self._nodes.connect()
        if self._server.is_cluster and self._address.db:
            raise InvalidURL("a Redis Cluster has database 0 only")
        if must_last and not self._server.is_durable:
            raise InvalidURL(
                f"require=durable, but of Redis at {self._address}: {self._server.promise}; "
                "it needs appendonly yes and appendfsync always"
            )
        key = self._keys.version
        words = ("SET", key, f"runstream {VERSION}", "NX")
        await self._nodes.command(*words, key=key, use="write")
        try:
            found: bytes = await self._nodes.command("GET", key, key=key)
        except LogUnavailable as error:
            if "WRONGTYPE" not in str(error):
                raise
            found = b""
        if found != f"runstream {VERSION}".encode():
            raise NotALog(
                f"what Redis at {self._address} has in {key!r} is not of this version of Runstream "
                f"({found.decode(errors='replace')!r}): upgrade it, or take another ?prefix="
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
        return await self._loop.run(self._open(run_id, producer, workflow, parent_run_id, claim))

    async def _open(
        self,
        run_id: str,
        producer: str | None,
        workflow: str | None,
        parent_run_id: str | None,
        claim: LeaseClaim | None,
    ) -> Opened:
        self._keep_clean()
        return await self._runs.open(run_id, producer, workflow, parent_run_id, claim)

    async def info(self, run_id: str) -> RunInfo:
        return await self._loop.run(self._streams.get(run_id))

    async def renew(self, run_id: str, *, owner: str, epoch: int) -> None:
        await self._loop.run(self._runs.renew(run_id, owner, epoch))

    async def release(self, run_id: str, *, owner: str, epoch: int) -> None:
        await self._loop.run(self._runs.release(run_id, owner, epoch))

    async def expire(self, run_id: str, *, lease: Lease) -> RunInfo:
        return await self._loop.run(self._expire(run_id, lease))

    async def _expire(self, run_id: str, lease: Lease) -> RunInfo:
        info, ended = await self._runs.expire(run_id, lease)
        self._finish(info.root_run_id, ended)
        return info

    async def trim(self, run_id: str, *, through: int) -> None:
        await self._loop.run(self._streams.call(TRIM, run_id, lambda _: (through,)))

    async def retain(self, run_id: str, retention: Retention | None) -> None:
        await self._loop.run(self._retain(run_id, retention))

    async def _retain(self, run_id: str, retention: Retention | None) -> None:
        await self._index.retain((await self._streams.get(run_id)).root_run_id, retention)

    async def retained(self) -> Mapping[str, Retention]:
        return await self._loop.run(self._index.retained())

    async def remove(self, run_id: str) -> None:
        await self._loop.run(self._index.remove(run_id))

    async def list(
        self,
        *,
        workflow: str | None = None,
        status: Status | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[RunInfo]:
        most = check_limit(limit, LIST_LIMIT_MAX)
        return await self._loop.run(self._index.list_runs(workflow, status, before, most))

    # --- records ---------------------------------------------------------------------------------

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        return await self._loop.run(self._append(run_id, tuple(drafts), producer, final=final))

    async def _append(
        self, run_id: str, drafts: Sequence[Draft], producer: Producer | None, *, final: bool
    ) -> Appended:
        self._keep_clean()
        appended, root, ended = await redis_records.append(
            self._streams, run_id, drafts, producer, final=final
        )
        self._finish(root, ended)
        return appended

    def _finish(self, root: str, ended: Sequence[bytes]) -> None:
        """Runs have ended: tell the index, behind the caller's back (it can do without)."""
        for at in range(0, len(ended), 4):
            run_id, status, what, when = (part.decode() for part in ended[at : at + 4])
            task = asyncio.ensure_future(
                self._tell_index(run_id, root, workflow_of(what), status, int(when))
            )
            self._left.add(task)
            task.add_done_callback(self._left.discard)

    def _keep_clean(self) -> None:
        if self._cleaning is None and self._retention_s is not None:
            # Not before: a process that only looks at a log changes nothing in it.
            self._cleaning = asyncio.ensure_future(self._index.keep_clean(self._retention_s))

    async def _tell_index(
        self, run_id: str, root: str, workflow: str, status: str, ended: int
    ) -> None:
        with contextlib.suppress(LogUnavailable, LogClosed):
            await self._index.finish(run_id, root, workflow, status, ended)

    async def read(self, run_id: str, *, after: Cursor, limit: int = READ_LIMIT_DEFAULT) -> Page:
        limit = check_limit(limit, READ_LIMIT_MAX)
        return await self._loop.run(redis_records.read(self._streams, run_id, after, limit))

    async def wait(self, run_id: str, *, after: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        watched = self._streams.root_of(run_id)
        with self._bell.listen(watched) as listener:
            # Not before listening: whoever closes the log rings once.
            self._loop.check_open()
            tail = self._wakeups.tail(watched)
            if tail is None:
                try:
                    async with asyncio.timeout(timeout):
                        is_there = await self._loop.run(self._look(watched))
                except TimeoutError:
                    is_there = True
                except LogUnavailable:
                    # Whoever waits is about to read, and hears of it there.
                    await listener.wait(min(BLIND_WAIT_S, max(0.0, deadline - time.monotonic())))
                    is_there = True
                if is_there:
                    # It may have been opened since the call, which the caller wants to hear. (From now
                    # on we know it, or its root.)
                    self._loop.check_open()
                    return
            if tail is None or (tail.last_seq <= after and not tail.ended):
                await listener.wait(max(0.0, deadline - time.monotonic()))
        self._loop.check_open()

    async def _look(self, run_id: str) -> bool:
        """Hear of a run from now on, and look at it; whether it is there."""
        try:
            known_run_id(run_id)
        except RunNotFound:
            return False  # nor can it ever be
        await self._wakeups.listen(run_id)
        info = await self._streams.find(run_id)
        if info is not None and info.root_run_id == run_id:
            self._wakeups.saw(run_id, Tail(info.generation, info.last_seq, info.has_ended))
        return info is not None

    async def _look_at(self, run_ids: Iterable[str]) -> None:
        """Wake whoever waits for a stream that has grown (a cluster may lose messages)."""
        with contextlib.suppress(LogUnavailable):
            for run_id in run_ids:
                info = await self._streams.find(run_id)
                told = self._wakeups.tail(run_id)
                if info is not None and (told is None or told.last_seq < info.last_seq):
                    tail = Tail(info.generation, info.last_seq, info.has_ended)
                    self._wakeups.saw(run_id, tail)
                    self._bell.ring([run_id])

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
        await self._wakeups.close()
        await self._nodes.close(CLOSING_S_MAX)
