# ruff: noqa: S608 - the statements below are put together from literals of this file
"""One transaction's view of a PostgreSQL log: the rows that its work concerns, loaded and locked, changed in
memory, and written back together.

So the work itself is plain code over a few objects, and a transaction costs two round trips however many
appends share it. The root's row is locked until the commit: that is what makes the order of numbers the
order of commits.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import msgspec
import psycopg

from ..errors import RunNotFound
from ..log import Lease, ProducerState, RunInfo, Status
from .postgres_line import Connection
from .postgres_read import could_be_stored, not_found

_Rows = psycopg.AsyncCursor[tuple[Any, ...]]

_COLUMNS: Final[LiteralString] = (
    "id, root, run_id, parent_run_id, workflow, status, generation, first_seq, last_seq, created, ended,"
    " owner, epoch, counter, lease_s, grace_s"
)
_SELECT: Final[LiteralString] = "SELECT " + _COLUMNS
# The runs and their roots. A root is older than its children, so it is locked first; all of them in one
# order, so that two processes never wait for each other.
_LOCK: Final[LiteralString] = (
    _SELECT + " FROM run WHERE id = ANY(ARRAY("
    "SELECT root FROM run WHERE run_id = ANY(%(runs)s)"
    " UNION SELECT id FROM run WHERE run_id = ANY(%(runs)s)"
    ")) ORDER BY root, id FOR UPDATE"
)
# These look again, behind the lock: what they find nobody else changes meanwhile.
_FAMILIES: Final[LiteralString] = (
    _SELECT + " FROM run WHERE root <> id AND ended IS NULL"
    " AND root = ANY(ARRAY(SELECT root FROM run WHERE run_id = ANY(%(families)s)))"
)
_PRODUCERS: Final[LiteralString] = (
    "SELECT p.run, p.producer_id, p.epoch, p.number, p.batch_number, p.first_seq, p.last_seq"
    " FROM unnest(%(runs)s::text[], %(ids)s::text[]) AS asked (run_id, producer_id)"
    " JOIN run ON run.run_id = asked.run_id"
    " JOIN producer AS p ON p.run = run.root AND p.producer_id = asked.producer_id"
)
_NEW_IDS: Final[LiteralString] = (
    "SELECT nextval(pg_get_serial_sequence('run', 'id')) FROM generate_series(1, %s)"
)
_MARKED: Final[LiteralString] = "SELECT 1 FROM chunk WHERE run = %s AND last_seq = %s AND mark = %s"

_ARRAYS: Final[LiteralString] = (
    "unnest(%b::bigint[], %b::bigint[], %b::text[], %b::text[], %b::text[], %b::text[], %b::text[],"
    " %b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[], %b::text[], %b::bigint[], %b::bigint[],"
    " %b::float8[], %b::float8[])"
)
_INSERT_RUNS: Final[LiteralString] = "INSERT INTO run (" + _COLUMNS + ") SELECT * FROM " + _ARRAYS
_UPDATE_RUNS: Final[LiteralString] = (
    "UPDATE run SET status = new.status, first_seq = new.first_seq, last_seq = new.last_seq,"
    " ended = new.ended, owner = new.owner, epoch = new.epoch, counter = new.counter,"
    " lease_s = new.lease_s, grace_s = new.grace_s"
    " FROM " + _ARRAYS + " AS new (" + _COLUMNS + ") WHERE run.id = new.id"
)
_PUT_PRODUCERS: Final[LiteralString] = (
    "INSERT INTO producer SELECT * FROM unnest(%b::bigint[], %b::text[], %b::bigint[], %b::bigint[],"
    " %b::bigint[], %b::bigint[], %b::bigint[]) ON CONFLICT (run, producer_id) DO UPDATE SET"
    " epoch = excluded.epoch, number = excluded.number, batch_number = excluded.batch_number,"
    " first_seq = excluded.first_seq, last_seq = excluded.last_seq"
)
_INSERT_CHUNKS: Final[LiteralString] = (
    "INSERT INTO chunk SELECT * FROM unnest(%b::bigint[], %b::bigint[], %b::bigint[], %b::bigint[],"
    " %b::bytea[])"
)
_TRIM: Final[LiteralString] = (
    "DELETE FROM chunk USING unnest(%b::bigint[], %b::bigint[]) AS old (run, through)"
    " WHERE chunk.run = old.run AND chunk.last_seq <= old.through"
)


@dataclass(slots=True)
class Run:
    """A run's row."""

    id: int
    root: int
    run_id: str
    parent_run_id: str | None
    workflow: str
    status: Status
    generation: str
    first_seq: int
    last_seq: int
    created: int
    ended: int | None = None
    owner: str | None = None
    epoch: int = 0
    counter: int = 0
    lease_s: float = 0.0
    grace_s: float = 0.0

    @property
    def lease(self) -> Lease | None:
        if self.owner is None:
            return None
        return Lease(self.owner, self.epoch, self.counter, self.lease_s, self.grace_s)


class Needs(msgspec.Struct, frozen=True):
    """What a piece of work will look at."""

    runs: frozenset[str]
    # (run id, producer id)
    producers: tuple[tuple[str, str], ...] = ()
    # Runs whose stream's running children it may end.
    families: frozenset[str] = frozenset()
    creates: bool = False


class Chunk(msgspec.Struct, frozen=True):
    """Consecutive encoded drafts of a stream (its root's row id)."""

    root: int
    first_seq: int
    last_seq: int
    encoded: bytes


class Attempt(msgspec.Struct, frozen=True):
    """A transaction whose commit was not answered: how it is told whether it happened."""

    outcomes: list[Any]
    chunk: Chunk
    mark: int


@dataclass(slots=True)
class Unit:
    """What one transaction has loaded and will write."""

    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    roots: dict[int, Run] = field(default_factory=dict[int, Run])
    producers: dict[tuple[int, str], ProducerState] = field(
        default_factory=dict[tuple[int, str], ProducerState]
    )
    new_ids: Iterator[int] = field(default_factory=lambda: iter(()))
    new_runs: list[Run] = field(default_factory=list[Run])
    changed_runs: dict[int, Run] = field(default_factory=dict[int, Run])
    changed_producers: set[tuple[int, str]] = field(default_factory=set[tuple[int, str]])
    chunks: list[Chunk] = field(default_factory=list[Chunk])
    trims: dict[int, int] = field(default_factory=dict[int, int])
    mark: int = 0

    def get(self, run_id: str) -> Run:
        """Raises RunNotFound."""
        run = self.runs.get(run_id)
        if run is None or run.root not in self.roots:
            raise not_found(run_id)
        return run

    def find(self, run_id: str) -> Run | None:
        try:
            return self.get(run_id)
        except RunNotFound:
            return None

    def root_of(self, run: Run) -> Run:
        return self.roots[run.root]

    def info(self, run: Run) -> RunInfo:
        root = self.root_of(run)
        return RunInfo(
            run.run_id, root.run_id, run.parent_run_id, run.workflow, run.status, root.generation,
            root.first_seq, root.last_seq, run.created, run.ended, run.lease,
        )  # fmt: skip

    def running_children(self, root: Run) -> list[Run]:
        """The newest first. Of families that were asked for."""
        found = [
            run
            for run in self.runs.values()
            if run.root == root.id and run.id != root.id and run.ended is None
        ]
        return sorted(found, key=lambda run: run.id, reverse=True)

    def add(self, run: Run) -> None:
        """A new run."""
        self._know(run)
        self.new_runs.append(run)

    def change(self, run: Run) -> None:
        """Write this run back."""
        self.changed_runs[run.id] = run

    def put_producer(self, root: int, producer_id: str, state: ProducerState) -> None:
        self.producers[root, producer_id] = state
        self.changed_producers.add((root, producer_id))

    def touched(self) -> list[tuple[str, str, int]]:
        """What others may wait for: run id, generation and newest seq of its stream."""
        changed = {run.id: run for run in (*self.new_runs, *self.changed_runs.values())}
        return [
            (run.run_id, self.root_of(run).generation, self.root_of(run).last_seq)
            for run in changed.values()
        ]

    def _know(self, run: Run) -> None:
        self.runs[run.run_id] = run
        if run.id == run.root:
            self.roots[run.id] = run

    # --- loading and writing ---------------------------------------------------------------------

    async def load(
        self, connection: Connection, needs: Sequence[Needs], unsure: Attempt | None
    ) -> bool:
        """Begin the transaction, lock and load; True if `unsure` proves to have been committed."""
        asked = _Asked(needs)
        states = ids = marked = None
        async with connection.pipeline():
            await connection.execute("BEGIN")
            found = [await connection.execute(_LOCK, {"runs": asked.runs})]
            if asked.families:
                found.append(await connection.execute(_FAMILIES, {"families": asked.families}))
            if asked.producers:
                runs, producers = _columns(asked.producers)
                states = await connection.execute(_PRODUCERS, {"runs": runs, "ids": producers})
            if asked.creating:
                ids = await connection.execute(_NEW_IDS, [asked.creating])
            if unsure is not None:
                place = [unsure.chunk.root, unsure.chunk.last_seq, unsure.mark]
                marked = await connection.execute(_MARKED, place)
        await self._take(found, states, ids)
        return marked is not None and await marked.fetchone() is not None

    async def _take(self, found: list[_Rows], states: _Rows | None, ids: _Rows | None) -> None:
        for cursor in found:
            for row in await cursor.fetchall():
                if row[2] not in self.runs:
                    self._know(Run(*row))
        if states is not None:
            for root, producer_id, *state in await states.fetchall():
                self.producers[root, producer_id] = ProducerState(*state)
        if ids is not None:
            self.new_ids = iter([row[0] for row in await ids.fetchall()])

    @property
    def writes(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.new_runs or self.changed_runs or self.changed_producers or self.trims)

    async def write(self, connection: Connection) -> None:
        """Write what changed, and commit."""
        self.mark = secrets.randbits(63)
        new = {run.id for run in self.new_runs}
        changed = [run for run in self.changed_runs.values() if run.id not in new]
        async with connection.pipeline():
            if self.chunks:
                await connection.execute(_INSERT_CHUNKS, self._chunk_columns())
            if self.new_runs:
                await connection.execute(_INSERT_RUNS, _run_columns(self.new_runs))
            if changed:
                await connection.execute(_UPDATE_RUNS, _run_columns(changed))
            if self.changed_producers:
                await connection.execute(_PUT_PRODUCERS, self._producer_columns())
            if self.trims:
                await connection.execute(_TRIM, [list(self.trims), list(self.trims.values())])
            await connection.execute("COMMIT")

    def _chunk_columns(self) -> list[list[Any]]:
        return _columns(
            (chunk.root, chunk.first_seq, chunk.last_seq, self.mark, chunk.encoded)
            for chunk in self.chunks
        )

    def _producer_columns(self) -> list[list[Any]]:
        return _columns(
            (*key, *msgspec.structs.astuple(self.producers[key]))
            for key in sorted(self.changed_producers)
        )


class _Asked:
    """What several pieces of work need, together and in one order."""

    def __init__(self, needs: Sequence[Needs]) -> None:
        runs = {run_id for need in needs for run_id in need.runs}
        # (A name that the server cannot even be asked for is not there.)
        self.runs = sorted(filter(could_be_stored, runs))
        self.families = sorted(
            {run_id for need in needs for run_id in need.families} & set(self.runs)
        )
        self.producers = sorted(
            {pair for need in needs for pair in need.producers if could_be_stored(pair[0])}
        )
        self.creating = sum(need.creates for need in needs)


def _run_columns(runs: Iterable[Run]) -> list[list[Any]]:
    return _columns(
        (
            run.id, run.root, run.run_id, run.parent_run_id, run.workflow, run.status, run.generation,
            run.first_seq, run.last_seq, run.created, run.ended, run.owner, run.epoch, run.counter,
            run.lease_s, run.grace_s,
        )
        for run in runs
    )  # fmt: skip


def _columns(rows: Iterable[tuple[Any, ...]]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
