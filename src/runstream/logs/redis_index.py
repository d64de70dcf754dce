"""The index of all runs of a Redis log: listing, and removing what has aged out.

In a cluster no step covers two slots, so the index is never the truth. A run is entered before it is
created and leaves the list of active ones after it has ended, whenever somebody comes to it; whoever lists
looks at the runs themselves. So nothing is missing, and what is wrong is skipped or put right.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

import msgspec

from ..admission import check_removable
from ..errors import RunstreamError
from ..log import END_STATUSES, RunInfo, Status
from ..record import now_us
from ..retention import Retention
from .redis_keys import Keys, Place, member, of_member
from .redis_scripts import FINISH, FORGET, REGISTER, REMOVE, UNPOINT
from .redis_streams import Streams, new_token

# Entries that are looked at together.
PAGE_MAX: Final = 500
# An entry without a run is one that is being created, or whose creator died; by then it is the latter.
STRAY_S: Final = 3600.0
# Between two looks for what has aged out: at most a tenth of the retention, and this.
LOOK_S_MAX: Final = 600.0
LOOK_S_MIN: Final = 0.1

ACTIVE: Final = "active"

logger = logging.getLogger(__name__)

_Entry = tuple[bytes, float]


class Index:
    """All in one event loop."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._keys: Keys = streams.keys

    async def register(self, run_id: str, root: str, workflow: str) -> None:
        """Enter a run that is about to be created; harmless if it is there."""
        keys = self._keys
        lists = [keys.runs(status, of) for status in (None, ACTIVE) for of in (None, workflow)]
        await self._streams.run_script(REGISTER, lists, member(run_id, root))

    async def finish(self, run_id: str, root: str, workflow: str, status: str, ended: int) -> None:
        """Enter a run that has ended among those of its status."""
        keys = self._keys
        lists = [keys.runs(), keys.ends, keys.runs(status), keys.runs(status, workflow)]
        lists += [keys.runs(ACTIVE), keys.runs(ACTIVE, workflow)]
        is_root = "1" if run_id == root else ""
        await self._streams.run_script(FINISH, lists, member(run_id, root), ended, is_root)

    async def list_runs(
        self, workflow: str | None, status: Status | None, before: str | None, limit: int
    ) -> list[RunInfo]:
        """As the contract has it."""
        below = "+inf"
        if before is not None:
            info = await self._streams.get(before)
            key = self._keys.runs()
            score: bytes | None = await self._streams.nodes.command(
                "ZSCORE", key, member(info.run_id, info.root_run_id), key=key
            )
            below = "+inf" if score is None else f"({score.decode()}"
        found: list[RunInfo] = []
        async with aclosing(self._candidates(workflow, status, below, limit)) as pages:
            async for entries in pages:
                for entry, run in zip(entries, await self._look(entries), strict=True):
                    if run is None:
                        await self._skip(entry, workflow)
                    elif workflow in {None, run.workflow} and status in {None, run.status}:
                        found.append(run)
                if len(found) >= limit:
                    break
        return found[:limit]

    async def _candidates(
        self, workflow: str | None, status: Status | None, below: str, limit: int
    ) -> AsyncGenerator[list[_Entry], None]:
        """Pages of entries, newest first, each once, that all runs of that status are among."""
        lists = [self._keys.runs(None if status is None else ACTIVE, workflow)]
        if status in END_STATUSES:
            lists.append(self._keys.runs(status, workflow))
        while True:
            count = min(max(limit, 16), PAGE_MAX)
            pages = await asyncio.gather(*(self._page(key, below, count) for key in lists))
            merged = {entry[0]: entry for page in pages for entry in page}
            entries = sorted(merged.values(), key=lambda entry: -entry[1])[:count]
            if not entries:
                return
            yield entries
            below = f"({entries[-1][1]:.0f}"

    async def _page(self, key: str, below: str, count: int) -> list[_Entry]:
        flat: list[bytes] = await self._streams.nodes.command(
            "ZREVRANGEBYSCORE", key, below, "-inf", "WITHSCORES", "LIMIT", 0, count, key=key
        )
        return [(flat[at], float(flat[at + 1])) for at in range(0, len(flat), 2)]

    async def _look(self, entries: list[_Entry]) -> list[RunInfo | None]:
        runs = [of_member(entry) for entry, _ in entries]
        return await asyncio.gather(*(self._streams.find_at(root, run_id) for run_id, root in runs))

    async def _skip(self, entry: _Entry, workflow: str | None) -> None:
        """An entry without a run: nobody is creating it any more, so it goes."""
        text, score = entry
        if now_us() - score < STRAY_S * 1_000_000:
            return
        for status in (None, ACTIVE, *END_STATUSES):
            for of in {None, workflow}:
                key = self._keys.runs(status, of)
                await self._streams.nodes.command("ZREM", key, text, key=key, use="write")

    # --- limits of single runs -------------------------------------------------------------------

    async def retain(self, root: str, retention: Retention | None) -> None:
        """Remember the limits of a stream, or forget them."""
        key, nodes = self._keys.limits, self._streams.nodes
        if retention is None:
            await nodes.command("HDEL", key, root, key=key, use="write")
        else:
            text = msgspec.json.encode(retention)
            await nodes.command("HSET", key, root, text, key=key, use="write")

    async def retained(self) -> dict[str, Retention]:
        """The limits that were set."""
        key = self._keys.limits
        flat: list[bytes] = await self._streams.nodes.command("HGETALL", key, key=key)
        return {
            flat[at].decode(): msgspec.json.decode(flat[at + 1], type=Retention)
            for at in range(0, len(flat), 2)
        }

    # --- what has aged out -----------------------------------------------------------------------

    async def remove(self, run_id: str) -> None:
        """As the contract has it."""
        info = await self._streams.get(run_id)
        check_removable(info)
        await self._remove(info.run_id, info.ended or 0)

    async def keep_clean(self, retention_s: float) -> None:
        """Remove runs that ended more than `retention_s` ago, until cancelled. Of all processes that
        share the log one does it at a time.
        """
        pause_s = max(min(retention_s / 10, LOOK_S_MAX), LOOK_S_MIN)
        key = self._keys.retention(retention_s)
        while True:
            try:
                # Held until the next look is due, so nobody else looks before.
                words = ("SET", key, new_token(), "NX", "PX", round(pause_s * 1000))
                if await self._streams.nodes.command(*words, key=key, use="write"):
                    await self._finish_ended()
                    await self._remove_ended(now_us() - round(retention_s * 1_000_000))
            except RunstreamError as error:
                logger.warning("cannot look for runs that have aged out: %s", error)
            except Exception:
                # Whatever it was, the next look may find another state of things.
                logger.exception("looking for runs that have aged out failed")
            await asyncio.sleep(pause_s)

    async def _finish_ended(self) -> None:
        """Enter what ended in a process that died before it could."""
        below = "+inf"
        while entries := await self._page(self._keys.runs(ACTIVE), below, PAGE_MAX):
            for info in await self._look(entries):
                if info is not None and info.ended is not None:
                    await self.finish(
                        info.run_id, info.root_run_id, info.workflow, info.status, info.ended
                    )
            below = f"({entries[-1][1]:.0f}"

    async def _remove_ended(self, before: int) -> None:
        key = self._keys.ends
        while True:
            flat: list[bytes] = await self._streams.nodes.command(
                "ZRANGEBYSCORE", key, "-inf", before, "WITHSCORES", "LIMIT", 0, PAGE_MAX, key=key
            )
            if not flat:
                return
            for at in range(0, len(flat), 2):
                await self._remove(flat[at].decode(), round(float(flat[at + 1])))

    async def _remove(self, root: str, ended: int) -> None:
        """Remove a stream: what leads to it first, so that a crash leaves nothing behind for ever."""
        streams, key = self._streams, self._keys.run(root)
        info = await streams.find_at(root, root)
        if info is not None and info.ended == ended:
            fields: list[bytes] = await streams.nodes.command("HKEYS", key, key=key)
            family = [name[2:].decode() for name in fields if name.startswith(b"r:")]
            for run_id in family:
                await self._remove_run(run_id, root)
            await streams.call_at(root, REMOVE, root, ended)
            await self.retain(root, None)
        await streams.run_script(FORGET, [self._keys.ends], root, f"{ended:.0f}")

    async def _remove_run(self, run_id: str, root: str) -> None:
        info = await self._streams.find_at(root, run_id)
        if info is None:
            return
        for status in (None, ACTIVE, info.status):
            for of in (None, info.workflow):
                key = self._keys.runs(status, of)
                await self._streams.nodes.command(
                    "ZREM", key, member(run_id, root), key=key, use="write"
                )
        if run_id != root and info.parent_run_id is not None:
            place = Place(root, info.parent_run_id, info.workflow)
            await self._streams.run_script(UNPOINT, [self._keys.pointer(run_id)], str(place))
