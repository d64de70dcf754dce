"""Which runs there are in NATS: an index beside the streams, in the order in which they were born.

The streams are the truth. An entry whose stream was never begun, because its writer died in between, is
passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Final
from urllib.parse import unquote

import msgspec

from ..admission import no_such_run
from ..errors import LogUnavailable, NotALog, RunNotFound, RunstreamError
from ..log import RunInfo
from ..record import now_us
from ..retention import Retention
from .nats_chain import Chain, decode_change
from .nats_index import Born, Entry, Index
from .nats_line import Line, Stored
from .nats_refusals import StreamGone, Unsure
from .nats_state import info_of
from .nats_subjects import Subjects

# Old runs are looked for this often, by one process of all.
CLEAN_S: Final = 300.0
# Runs that one round of cleaning removes.
REMOVED_MAX: Final = 1000

# Removes an ended root run, and what the process knows of it.
Remove = Callable[[str], Awaitable[None]]

logger = logging.getLogger(__name__)

_decode_born = msgspec.json.Decoder(Born).decode


class Runs:
    """The index. In the log's own loop only."""

    def __init__(self, line: Line, subjects: Subjects) -> None:
        self._line, self._subjects = line, subjects
        self._index = Index(line, subjects)

    async def create(self, replicas: int) -> int:
        """Make the streams of JetStream if they are not there; the number of replicas that they have."""
        name, runs = self._subjects.name, self._subjects.runs
        found: list[int] = []
        for stream, subject in ((name, f"{name}.>"), (runs, f"{runs}.>")):
            try:
                info = await self._line.api(f"STREAM.INFO.{stream}")
            except StreamGone:
                info = await self._line.api(
                    f"STREAM.CREATE.{stream}", _config(stream, subject, replicas)
                )
            _check(stream, subject, info["config"])
            found.append(int(info["config"].get("num_replicas", 1)))
        self._line.is_replicated = max(found) > 1
        return min(found)

    async def bear(self, run_id: str, root: str, workflow: str) -> tuple[str, bool]:
        """Note that there is a run in the stream of `root`; the root that somebody noted before, and
        whether nobody had.
        """
        subject = self._subjects.born(run_id)
        data = msgspec.json.encode(Born(run_id, root, workflow))
        at: int | None = None
        with contextlib.suppress(Unsure):
            # (Several replicas store it, though there be one: so look first.)
            if not self._line.is_replicated or await self._first(subject) is None:
                at = await self._line.store(subject, data, expected=0)
                if at is not None and not self._line.is_replicated:
                    return root, True
        first = await self._first(subject)
        if first is None:
            raise LogUnavailable(f"NATS did not say whether run {run_id!r} is stored")
        return _decode_born(first.data).root, first.seq == at

    async def root_of(self, run_id: str) -> str:
        """Raises RunNotFound."""
        subject = self._subjects.born(run_id)
        try:
            stored = await self._first(subject)
            if stored is None and self._line.is_replicated:
                await self._line.settle(self._subjects.runs)
                stored = await self._first(subject)
        except StreamGone:
            stored = None
        if stored is None:
            raise no_such_run(run_id)
        return _decode_born(stored.data).root

    async def _first(self, subject: str) -> Stored | None:
        """Of the entries of a run the first counts. (With one replica there is but one of them.)"""
        if not self._line.is_replicated:
            return await self._line.last(self._subjects.runs, subject)
        return await self._line.next(self._subjects.runs, subject, 1)

    async def newest_first(
        self, before: str | None, workflow: str | None = None
    ) -> AsyncGenerator[list[Entry]]:
        """The entries of a workflow or all, some at a time, those before `before` or all."""
        at: int | None = None
        if before is not None:
            stored = await self._line.last(self._subjects.runs, self._subjects.born(before))
            at = stored.seq if stored else 0
        async for entries in self._index.newest_first(at, workflow):
            yield entries

    async def look_at(self, roots: list[str]) -> list[RunInfo | None]:
        """The root runs as their newest messages say; None for one that is not there."""
        return await asyncio.gather(*map(self._head, roots))

    async def _head(self, root: str) -> RunInfo | None:
        stored = await Chain(self._line, self._subjects, root).newest()
        return None if stored is None else info_of(decode_change(stored.data))

    # --- limits and removal ----------------------------------------------------------------------

    async def keep(self, root: str, *, is_kept: bool) -> None:
        """Note whether a stream has limits of its own."""
        subject = self._subjects.kept(root)
        if is_kept:
            try:
                await self._line.store(subject, b"{}", expected=None)
            except Unsure as error:
                raise LogUnavailable("NATS did not say whether it is stored") from error
        else:
            await self._line.purge(self._subjects.runs, subject)

    async def retained(self) -> dict[str, Retention]:
        """The limits that were set, by root."""
        prefix = f"{self._subjects.runs}.kept."
        info = await self._line.api(
            f"STREAM.INFO.{self._subjects.runs}", {"subjects_filter": f"{prefix}*"}
        )
        found: dict[str, Retention] = {}
        subjects: dict[str, int] = info["state"].get("subjects") or {}
        for subject in subjects:
            root = unquote(subject.removeprefix(prefix))
            stored = await Chain(self._line, self._subjects, root).newest()
            retention = decode_change(stored.data).retention if stored else None
            if retention is not None:
                found[root] = retention
        return found

    async def remove(self, info: RunInfo, children: tuple[str, ...], at: int) -> None:
        """Drop an ended root run and all that belongs to it; what it is found by comes last, so that a
        removal that is cut off may be called again. Before that comes the newest message, the one `at`.
        """
        names, root = self._subjects, info.run_id
        born = await self._line.last(names.runs, names.born(root))
        await self._line.purge(names.runs, names.kept(root))
        for run_id in children:
            await self._line.purge(names.runs, names.born(run_id))
        await self._line.purge(names.name, names.parts(root))
        if self._line.is_replicated:
            await self._line.purge(names.name, names.changes(root), before=at)
        await self._line.purge(names.name, names.changes(root))
        if born is not None:
            # Who begins it again meanwhile has noted it anew.
            await self._line.purge(names.runs, names.born(root), before=born.seq + 1)

    async def bear_again(self, run_id: str, root: str, workflow: str) -> None:
        """Note anew a run that was begun though it had an entry: that of one before it, which may be
        removed right now.
        """
        subject = self._subjects.born(run_id)
        data = msgspec.json.encode(Born(run_id, root, workflow))
        try:
            at = await self._line.store(subject, data, expected=None)
        except Unsure as error:
            raise LogUnavailable(f"NATS did not say whether run {run_id!r} is stored") from error
        if at is not None:
            await self._line.purge(self._subjects.runs, subject, before=at)

    async def keep_clean(self, retention_s: float, remove: Remove) -> None:
        """Remove runs that ended long ago, now and then; one process of all does it."""
        while True:
            try:
                if await self._claim_cleaning(min(CLEAN_S, retention_s)):
                    await self._clean(retention_s, remove)
            except RunstreamError as error:
                logger.warning("cleaning NATS: %s", error)
            await asyncio.sleep(min(CLEAN_S, retention_s))

    async def _claim_cleaning(self, every_s: float) -> bool:
        subject = self._subjects.cleaned()
        last = await self._line.last(self._subjects.runs, subject)
        if last is not None:
            cleaned: dict[str, Any] = msgspec.json.decode(last.data)
            if time.time() - cleaned["time"] < every_s / 2:
                return False
        data = msgspec.json.encode({"time": time.time()})
        try:
            at = await self._line.store(subject, data, expected=last.seq if last else 0)
        except Unsure:
            return False
        if at is not None and last is not None:
            await self._line.purge(self._subjects.runs, subject, before=at)
        return at is not None

    async def _clean(self, retention_s: float, remove: Remove) -> None:
        before = now_us() - round(retention_s * 1_000_000)
        old: list[str] = []
        async for entries in self.newest_first(None):
            born = [entry.born for entry in entries]
            roots = [one.run_id for one in born if one.run_id == one.root]
            infos = await self.look_at(roots)
            old += [info.run_id for info in infos if info and info.ended and info.ended <= before]
        for run_id in old[-REMOVED_MAX:]:
            try:
                await remove(run_id)
            except RunNotFound:
                continue


def _check(name: str, subject: str, config: dict[str, Any]) -> None:
    """Raises NotALog for a stream of somebody else, and for one that loses what it has acknowledged."""
    if config.get("subjects") != [subject]:
        raise NotALog(
            f"the JetStream stream {name} is not one of ours: choose another name, as in nats://HOST/NAME"
        )
    must = {"retention": "limits", "storage": "file", "discard": "new", "allow_direct": True}
    wrong = [name for name, value in must.items() if config.get(name) != value]
    wrong += [name for name in ("max_age", "max_msgs_per_subject") if (config.get(name) or 0) > 0]
    if wrong:
        raise NotALog(
            f"the JetStream stream {name} has been given another {wrong[0]}: a log cannot keep its "
            "promises there"
        )


def _config(name: str, subject: str, replicas: int) -> dict[str, Any]:
    return {
        "name": name,
        "subjects": [subject],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "max_consumers": -1,
        "max_msgs": -1,
        "max_bytes": -1,
        "max_age": 0,
        "max_msg_size": -1,
        "allow_direct": True,
        "duplicate_window": 0,
    }
