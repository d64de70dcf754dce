"""Lists of the runs in NATS: the index says which there are, the newest message of each how it stands."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from ..errors import RunNotFound
from ..log import RunInfo, Status
from .nats_index import Entry
from .nats_runs import Runs

# Runs of which is remembered that they have ended: some 100 bytes each.
ENDED_MAX: Final = 100_000

# How a child stands, by the ids of its root and its own; raises RunNotFound.
InfoOf = Callable[[str, str], Awaitable[RunInfo]]


class Lists:
    """In the log's own loop only."""

    def __init__(self, runs: Runs, info_of: InfoOf) -> None:
        self._runs, self._info_of = runs, info_of
        # By their id and entry, for a run may be removed and begun again.
        self._ended: OrderedDict[tuple[str, int], Status] = OrderedDict()

    async def list(
        self,
        workflow: str | None,
        status: Status | None,
        before: str | None,
        limit: int,
        begin_anew: Callable[[], None],
    ) -> Sequence[RunInfo]:
        """What `Log.list` promises, of a `before` that is there. For each step the time begins anew."""
        found: list[RunInfo] = []
        seen: set[str] = set()
        async for entries in self._runs.newest_first(before, workflow):
            for info in await self._look_at(entries, status):
                if info is None or info.run_id in seen:
                    continue  # (begun again: its entry from before is not gone yet)
                if status in (None, info.status):
                    seen.add(info.run_id)
                    found.append(info)
                    if len(found) == limit:
                        return found
            begin_anew()
        return found

    async def _look_at(
        self, entries: Sequence[Entry], status: Status | None
    ) -> Sequence[RunInfo | None]:
        """How the runs stand now; None for one that is not there."""
        wanted = [one for one in entries if status in (None, self._ended.get(_key(one), status))]
        roots = [one for one in wanted if one.born.run_id == one.born.root]
        children = [one for one in wanted if one.born.run_id != one.born.root]
        infos = dict(
            zip(
                map(_key, [*roots, *children]),
                [
                    *await self._runs.look_at([one.born.root for one in roots]),
                    *await asyncio.gather(*map(self._child, children)),
                ],
                strict=True,
            )
        )
        for key, info in infos.items():
            if info is not None and info.has_ended:
                self._note_end(key, info.status)
        return [infos[_key(one)] for one in wanted]

    async def _child(self, entry: Entry) -> RunInfo | None:
        try:
            return await self._info_of(entry.born.root, entry.born.run_id)
        except RunNotFound:
            return None  # never quite begun

    def _note_end(self, key: tuple[str, int], status: Status) -> None:
        """An end stays: a list of open runs need not look at these again."""
        self._ended[key] = status
        if len(self._ended) > ENDED_MAX:
            self._ended.popitem(last=False)


def _key(entry: Entry) -> tuple[str, int]:
    return entry.born.run_id, entry.seq
