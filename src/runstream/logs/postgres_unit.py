# ruff: noqa: S608 - the statements below are put together from literals of this file
"""One transaction's view of a PostgreSQL log: the rows that its work concerns, loaded, changed in memory, and
written back together.

So the work itself is plain code over a few objects, and costs two round trips however many appends share
it. The write is one statement: it locks each root's row, looks whether it is still of the revision that was
loaded, and commits. So the order of numbers is the order of commits.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, LiteralString

import msgspec
import psycopg

from ..admission import no_such_run
from ..errors import RunNotFound
from ..log import Lease, ProducerState, RunInfo, Status
from .postgres_line import Connection
from .postgres_read import could_be_stored

_Rows = psycopg.AsyncCursor[tuple[Any, ...]]

_COLUMNS: Final[LiteralString] = (
    "id, root, run_id, parent_run_id, workflow, status, generation, first_seq, last_seq, created, ended,"
    " owner, epoch, counter, lease_s, grace_s, revision"
)
_SELECT: Final[LiteralString] = "SELECT " + _COLUMNS
_RUNS: Final[LiteralString] = (
    _SELECT + " FROM run WHERE id = ANY(ARRAY("
    "SELECT root FROM run WHERE run_id = ANY(%(runs)s)"
    " UNION SELECT id FROM run WHERE run_id = ANY(%(runs)s)))"
)
_LOCK: Final[LiteralString] = (
    "SELECT FROM run WHERE id = ANY(ARRAY(SELECT root FROM run WHERE run_id = ANY(%s)))"
    " ORDER BY id FOR UPDATE"
)
# These look later than at the roots: what has changed in between changes a root's revision.
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
# (A new run's id is nobody else's.)
_CREATED: Final[LiteralString] = "SELECT 1 FROM run WHERE id = %s"

_TYPES: Final[LiteralString] = (
    "id bigint, root bigint, run_id text, parent_run_id text, workflow text, status text, generation text,"
    " first_seq bigint, last_seq bigint, created bigint, ended bigint, owner text, epoch bigint,"
    " counter bigint, lease_s float8, grace_s float8, revision bigint"
)
# All or nothing, and nothing if a row of `run` is not any more the one that we know: so no lock is held
# while a client thinks, or has stopped, or is gone.
_WRITE: Final[LiteralString] = (
    "WITH new AS MATERIALIZED (SELECT * FROM json_to_recordset(%(runs)s::json) AS new ("
    + _TYPES
    + ")),"
    " locked AS MATERIALIZED (SELECT run.id FROM new JOIN run ON run.id = new.id"
    " AND run.generation = new.generation AND run.revision = new.revision - 1 FOR UPDATE OF run),"
    " same AS MATERIALIZED (SELECT count(*) = %(count)s AS ok FROM locked),"
    " updated AS (UPDATE run SET status = new.status, first_seq = new.first_seq, last_seq = new.last_seq,"
    " ended = new.ended, owner = new.owner, epoch = new.epoch, counter = new.counter,"
    " lease_s = new.lease_s, grace_s = new.grace_s, revision = new.revision"
    " FROM new WHERE run.id = new.id AND (SELECT ok FROM same)),"
    " created AS (INSERT INTO run (" + _COLUMNS + ") SELECT " + _COLUMNS + " FROM"
    " json_to_recordset(%(created)s::json) AS new_run ("
    + _TYPES
    + ") WHERE (SELECT ok FROM same)),"
    " trimmed AS (DELETE FROM chunk USING json_to_recordset(%(trims)s::json)"
    " AS old (run bigint, through bigint) WHERE chunk.run = old.run AND chunk.last_seq <= old.through"
    " AND (SELECT ok FROM same)),"
    " stored AS (INSERT INTO chunk (run, first_seq, last_seq, mark, drafts)"
    " SELECT run, first_seq, last_seq, %(mark)s, drafts FROM ROWS FROM (json_to_recordset(%(chunks)s::json)"
    " AS (run bigint, first_seq bigint, last_seq bigint), unnest(%(drafts)b::bytea[]))"
    " AS new_chunk (run, first_seq, last_seq, drafts) WHERE (SELECT ok FROM same)),"
    " sent AS (INSERT INTO producer (run, producer_id, epoch, number, batch_number, first_seq, last_seq)"
    " SELECT * FROM json_to_recordset(%(producers)s::json) AS state (run bigint, producer_id text,"
    " epoch bigint, number bigint, batch_number bigint, first_seq bigint, last_seq bigint)"
    " WHERE (SELECT ok FROM same) ON CONFLICT (run, producer_id) DO UPDATE SET"
    " epoch = excluded.epoch, number = excluded.number, batch_number = excluded.batch_number,"
    " first_seq = excluded.first_seq, last_seq = excluded.last_seq)"
    " SELECT ok FROM same"
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
    # Counts the changes of this row; of a root's, those of its whole family and of its producers.
    revision: int = 0

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
    news: list[tuple[str, str, int]]
    # A look that finds a row if it did.
    sign: tuple[LiteralString, list[int]]


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
            raise no_such_run(run_id)
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
        self.know(run)
        self.new_runs.append(run)
        self.change(self.root_of(run))

    def change(self, run: Run) -> None:
        """Write this run back, and let its root tell that something changed."""
        for one in (run, self.root_of(run)):
            if one.id not in self.changed_runs:
                one.revision += 1
                self.changed_runs[one.id] = one

    def put_producer(self, root: int, producer_id: str, state: ProducerState) -> None:
        self.producers[root, producer_id] = state
        self.changed_producers.add((root, producer_id))
        self.change(self.roots[root])

    def touched(self) -> list[tuple[str, str, int]]:
        """What others may wait for: run id, generation and newest seq of its stream."""
        changed = {run.id: run for run in (*self.new_runs, *self.changed_runs.values())}
        return [
            (run.run_id, self.root_of(run).generation, self.root_of(run).last_seq)
            for run in changed.values()
        ]

    def know(self, run: Run) -> None:
        """Take in a row as it is."""
        self.runs[run.run_id] = run
        if run.id == run.root:
            self.roots[run.id] = run

    # --- loading and writing ---------------------------------------------------------------------

    async def load(
        self,
        connection: Connection,
        needs: Sequence[Needs],
        unsure: Attempt | None,
        *,
        lock: bool,
    ) -> bool:
        """Read what is needed; True if `unsure` proves to have been committed.

        `lock`: in a transaction that keeps others away from the streams; the caller commits it.
        """
        asked = _Asked(needs)
        states = ids = marked = None
        if lock:
            await connection.execute("BEGIN")
            await connection.execute(_LOCK, [asked.runs])
        # (In a pipeline the server would not end a transaction whose client has stopped.)
        async with nullcontext() if lock else connection.pipeline():
            found = [await connection.execute(_RUNS, {"runs": asked.runs})]
            if asked.families:
                found.append(await connection.execute(_FAMILIES, {"families": asked.families}))
            if asked.producers:
                runs, producers = zip(*asked.producers, strict=True)
                pairs = {"runs": list(runs), "ids": list(producers)}
                states = await connection.execute(_PRODUCERS, pairs)
            if asked.creating:
                ids = await connection.execute(_NEW_IDS, [asked.creating])
            if unsure is not None:
                marked = await connection.execute(*unsure.sign)
        await self._take(found, states, ids)
        return marked is not None and await marked.fetchone() is not None

    async def _take(self, found: list[_Rows], states: _Rows | None, ids: _Rows | None) -> None:
        for cursor in found:
            for row in await cursor.fetchall():
                if row[2] not in self.runs:
                    self.know(Run(*row))
        if states is not None:
            for root, producer_id, *state in await states.fetchall():
                self.producers[root, producer_id] = ProducerState(*state)
        if ids is not None:
            self.new_ids = iter([row[0] for row in await ids.fetchall()])

    @property
    def writes(self) -> bool:
        """Whether there is anything to write."""
        return bool(self.new_runs or self.changed_runs or self.changed_producers or self.trims)

    def attempt(self, outcomes: list[Any]) -> Attempt | None:
        """What became of the write can be told later by this; None if it left no sign: then it may be
        made again.
        """
        if self.chunks:
            chunk = self.chunks[0]
            sign = (_MARKED, [chunk.root, chunk.last_seq, self.mark])
        elif self.new_runs:
            sign = (_CREATED, [self.new_runs[0].id])
        else:
            return None
        return Attempt(outcomes, self.touched(), sign)

    async def write(self, connection: Connection) -> bool:
        """Write what changed, in one statement; False (and nothing is written) if the rows are not any more
        what this unit was made of.
        """
        written = await connection.execute(_WRITE, self._changes())
        return await written.fetchone() == (True,)

    def _changes(self) -> dict[str, Any]:
        self.mark = secrets.randbits(63)
        new = {run.id for run in self.new_runs}
        # In one order: two processes that lock them never wait for each other.
        runs = [self.changed_runs[key] for key in sorted(self.changed_runs) if key not in new]
        return {
            "runs": _json(runs),
            "count": len(runs),
            "created": _json(self.new_runs),
            "mark": self.mark,
            "chunks": _json(
                [
                    {"run": chunk.root, "first_seq": chunk.first_seq, "last_seq": chunk.last_seq}
                    for chunk in self.chunks
                ]
            ),
            "drafts": [chunk.encoded for chunk in self.chunks],
            "producers": _json(
                [
                    {
                        "run": run,
                        "producer_id": name,
                        **msgspec.structs.asdict(self.producers[run, name]),
                    }
                    for run, name in sorted(self.changed_producers)
                ]
            ),
            "trims": _json(
                [{"run": run, "through": through} for run, through in self.trims.items()]
            ),
        }


def _json(rows: Sequence[object]) -> str:
    return msgspec.json.encode(rows).decode()


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
