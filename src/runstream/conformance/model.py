"""Random: any sequence of calls has the outcome that it has on the memory log, which is the model.

The moves are drawn from a seed; a difference names the seed and the move, and `play` repeats them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import msgspec

from ..errors import PositionGone, RunstreamError
from ..log import Lease, LeaseClaim, Log, Opened, Producer, RunInfo
from ..logs.memory import MemoryLog
from ..record import Draft, make_draft
from .check import WORKFLOW, BrokenPromise, OpenLog, expect_equal, new_name, read_all

SEEDS: Final = tuple(range(1, 13))
MOVES: Final = 150
# Of a stream that is read in small pages, so that a game does not consist of reads.
PAGES_READ: Final = 8
KINDS: Final = ("note", "note", "note", "run.waiting", "run.resumed")


async def check_random_calls_match_the_model(open_log: OpenLog) -> None:
    """Any sequence of calls, from two processes in turn, has the outcomes that the contract gives it."""
    for seed in SEEDS:
        await play(open_log, seed)


async def play(open_log: OpenLog, seed: int, moves: int = MOVES) -> None:
    """One game: the same calls on the log and on the model. Raises BrokenPromise at a difference."""
    async with open_log() as log, open_log() as other:
        game = _Game(random.Random(seed), log, other)  # noqa: S311 - a game, not a secret
        for move in range(moves):
            name, call = game.draw()
            model = await _outcome(call, game.model)
            got = await _outcome(call, game.log_for(name))
            expect_equal(got, model, f"seed {seed}, move {move + 1}: {name}")
            # Nothing may wait in a log that is memory alone, and others want their turn.
            await asyncio.sleep(0)
        for run in game.runs:
            await game.compare_streams(run, f"seed {seed}, at the end")


Call = Callable[[Log], Awaitable[object]]


async def _outcome(call: Call, log: Log) -> object:
    """The answer or the refusal, without what two logs may do differently."""
    try:
        return _comparable(await call(log))
    except PositionGone as error:
        return type(error).__name__, error.first_seq
    except RunstreamError as error:
        return type(error).__name__


def _comparable(answer: Any) -> object:
    match answer:
        case RunInfo():
            return msgspec.structs.replace(
                answer, generation="", created=0, ended=None if answer.ended is None else 0
            )
        case Opened():
            return msgspec.structs.replace(answer, info=_comparable(answer.info))
        case list() | tuple():
            return [_comparable(part) for part in cast("Sequence[object]", answer)]
        case Draft():
            return answer.run_id, answer.kind, bytes(answer.data)
        case _:
            return answer


class _Game:
    """Draws calls that mostly make sense, and sometimes do not."""

    def __init__(self, rng: random.Random, log: Log, other: Log) -> None:
        self.rng = rng
        self.model = MemoryLog()
        self.runs: list[str] = []
        self._log = log
        self._other = other
        self._numbers: dict[tuple[str, str], int] = {}
        self._epochs: dict[tuple[str, str], int] = {}
        self._producers = [new_name() for _ in range(3)]
        self._leases: dict[str, list[Lease]] = {}
        self._sent: list[tuple[str, list[Draft], Producer, bool]] = []
        self._written = 0

    def log_for(self, move: str) -> Log:
        """One handle trims and reads: another process may see trimmed records a little longer."""
        if move in ("trim", "read"):
            return self._log
        return self.rng.choice((self._log, self._other))

    def draw(self) -> tuple[str, Call]:
        """The name of a move, and the call."""
        moves: list[tuple[int, str, Callable[[str], Call]]] = [
            (2, "open", self._open),
            (10, "append", self._append),
            (2, "repeat", self._repeat),
            (1, "end", self._end),
            (6, "read", self._read),
            (2, "trim", self._trim),
            (3, "info", self._info),
            (1, "renew", self._renew),
            (1, "release", self._release),
            (1, "expire", self._expire),
        ]
        if len(self.runs) < self.rng.randint(1, 6):
            return "open a new run", self._open_new()
        weights = [weight for weight, _, _ in moves]
        _, name, make = self.rng.choices(moves, weights)[0]
        run = self.rng.choice(self.runs)
        return name, make(run)

    def _open_new(self) -> Call:
        run = new_name()
        parent = self.rng.choice([None, *self.runs]) if self.runs else None
        self.runs.append(run)
        return self._opening(run, parent)

    def _open(self, run: str) -> Call:
        return self._opening(run, None)

    def _opening(self, run: str, parent: str | None) -> Call:
        producer = self.rng.choice([None, *self._producers])
        claim = self.rng.choice([None, LeaseClaim(60.0), LeaseClaim(60.0, 60.0)])

        async def call(log: Log) -> object:
            opened = await log.open(
                run, producer=producer, workflow=WORKFLOW, parent_run_id=parent, claim=claim
            )
            if log is self.model:
                self._learn(opened.info)
                if producer is not None:
                    self._epochs[opened.info.root_run_id, producer] = opened.epoch
            return opened

        return call

    def _learn(self, info: RunInfo) -> None:
        if info.lease is not None:
            self._leases.setdefault(info.run_id, []).append(info.lease)

    def _drafts(self, run: str) -> list[Draft]:
        # Mostly of the run itself; sometimes of another one, of its family or not.
        count = self.rng.choice((1, 1, 2, 5, 40, 300))
        drafts: list[Draft] = []
        for _ in range(count):
            self._written += 1
            whose = self.rng.choice(self.runs) if self.rng.random() < 0.1 / count else run
            kind = self.rng.choice(KINDS) if self._one_in(5) else "note"
            drafts.append(make_draft(whose, kind, {"n": self._written}))
        return drafts

    def _one_in(self, times: int) -> bool:
        return self.rng.random() * times < 1

    def _append(self, run: str) -> Call:
        return self._sending(run, self._drafts(run), final=False)

    def _end(self, run: str) -> Call:
        kind = self.rng.choice(("run.completed", "run.failed", "run.cancelled"))
        drafts = [*self._drafts(run)[:2], make_draft(run, kind, {})]
        return self._sending(run, drafts, final=self._one_in(2))

    def _sending(self, run: str, drafts: list[Draft], *, final: bool) -> Call:
        who = self.rng.choice([None, *self._producers])
        if who is None:
            return lambda log: log.append(run, drafts, final=final)
        slip = self.rng.choice((0,) * 12 + (-1, 1, 3))
        return self._as_producer(run, drafts, who, slip, final=final)

    def _as_producer(
        self, run: str, drafts: list[Draft], who: str, slip: int, *, final: bool
    ) -> Call:
        sent: list[Producer] = []

        async def call(log: Log) -> object:
            root = (await self.model.info(run)).root_run_id
            key = (root, who)
            if not self._epochs.get(key) and any(draft.kind != "note" for draft in drafts):
                # Who has never opened a run does not tell of its lifecycle: a server refuses that.
                return await log.append(run, drafts, final=final)
            if not sent:  # the model comes first; the log is sent the same
                number = self._numbers.get(key, 0) + 1 + slip
                sent.append(Producer(who, self._epochs.get(key, 0), number))
                self._sent.append((run, drafts, sent[0], final))
            appended = await log.append(run, drafts, producer=sent[0], final=final)
            if log is self.model and not appended.duplicates:
                self._numbers[key] = sent[0].number + len(drafts) - 1
            return appended

        return call

    def _repeat(self, run: str) -> Call:
        if not self._sent:
            return self._info(run)
        sent_to, drafts, producer, final = self.rng.choice(self._sent[-4:])
        return lambda log: log.append(sent_to, drafts, producer=producer, final=final)

    def _read(self, run: str) -> Call:
        after = self.rng.choice((0, 0, self.rng.randint(0, 50), self.rng.randint(0, 3000)))
        limit = self.rng.choice((1, 7, 256, 1024))
        return lambda log: read_all(log, run, after=after, limit=limit, count=PAGES_READ * limit)

    def _trim(self, run: str) -> Call:
        through = self.rng.choice((0, 1, self.rng.randint(0, 300)))
        return lambda log: log.trim(run, through=through)

    def _info(self, run: str) -> Call:
        async def call(log: Log) -> object:
            info = await log.info(run)
            if log is self.model:
                self._learn(info)
            return info

        return call

    def _renew(self, run: str) -> Call:
        lease = self._some_lease(run)
        return lambda log: log.renew(run, owner=lease.owner, epoch=lease.epoch)

    def _release(self, run: str) -> Call:
        lease = self._some_lease(run)
        return lambda log: log.release(run, owner=lease.owner, epoch=lease.epoch)

    def _expire(self, run: str) -> Call:
        lease = self._some_lease(run)
        return lambda log: log.expire(run, lease=lease)

    def _some_lease(self, run: str) -> Lease:
        known = self._leases.get(run, [])[-2:]
        return self.rng.choice(known) if known else Lease("nobody", 1, 1, 60.0, 0.0)

    async def compare_streams(self, run: str, when: str) -> None:
        """Both logs' whole streams are the same."""
        try:
            first = (await self.model.info(run)).first_seq
        except RunstreamError:
            return
        for log in (self._log, self._other):
            got = _comparable(await read_all(log, run, after=first - 1))
            wanted = _comparable(await read_all(self.model, run, after=first - 1))
            if got != wanted:
                raise BrokenPromise(f"{when}: the stream of {run!r} differs from the model's")
