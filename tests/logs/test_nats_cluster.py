"""A cluster of three NATS servers, of which any is killed or paused: nothing acknowledged is lost, doubled or
told in another order, whoever leads.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from programs import report
from runstream.conformance.check import collect, ending, new_name, notes, read_all, subscribe
from runstream.errors import LogUnavailable
from runstream.log import Appended, Log, Producer
from runstream.logs import open_log
from runstream.record import Draft, Record
from services.nats import NatsCluster

# Guards against hanging. A new leader is elected within ten seconds, on an idle machine.
DEADLINE_S = 120.0
KILL_S_MAX = 90.0


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Log]:
    log = await asyncio.to_thread(open_log, url)
    try:
        yield log
    finally:
        await log.aclose()


async def insist(log: Log, run: str, drafts: Sequence[Draft], producer: Producer) -> Appended:
    """As a publisher does: send the same batch until the log answers."""
    while True:
        with contextlib.suppress(LogUnavailable):
            final = drafts[-1].is_terminal
            return await log.append(run, drafts, producer=producer, final=final)


class Load:
    """Writers and followers of one run, through several logs at once."""

    def __init__(self, logs: Sequence[Log]) -> None:
        self.run = new_name()
        # What was appended, by the number that it was told.
        self.acknowledged: dict[int, int] = {}
        self._logs, self._enough = logs, asyncio.Event()
        self._writers: list[asyncio.Task[int]] = []
        self._followers: list[asyncio.Task[list[Record]]] = []

    async def start(self) -> None:
        await self._logs[0].open(self.run, producer=None, workflow="w")
        for number, log in enumerate(self._logs):
            self._writers.append(asyncio.ensure_future(self._write(log, f"p{number}")))
            self._followers.append(asyncio.ensure_future(collect(subscribe(log, self.run))))

    async def _write(self, log: Log, who: str) -> int:
        number = 0
        while not self._enough.is_set():
            batch = notes(self.run, [number, number + 1])
            done = await insist(log, self.run, batch, Producer(who, 0, number + 1))
            assert done.last_seq == done.first_seq + 1
            for at in (0, 1):
                assert done.first_seq + at not in self.acknowledged, "two were told one number"
                self.acknowledged[done.first_seq + at] = number + at
            number += 2
        return number

    async def grow(self, count: int) -> None:
        """Until so many more are acknowledged."""
        aim = len(self.acknowledged) + count
        while len(self.acknowledged) < aim:
            assert not any(writer.done() for writer in self._writers)
            await asyncio.sleep(0.01)

    async def end(self) -> None:
        """Stop, and compare what everybody saw with what was acknowledged."""
        self._enough.set()
        counts = await asyncio.gather(*self._writers)
        last = await insist(self._logs[0], self.run, [ending(self.run)], Producer("end", 0, 1))
        assert last.last_seq == sum(counts) + 1 == len(self.acknowledged) + 1
        for seen in [await follower for follower in self._followers]:
            assert [record.seq for record in seen] == list(range(1, sum(counts) + 2))
            for record in seen[:-1]:
                assert record.data["n"] == self.acknowledged[record.seq]

    async def stop(self) -> None:
        """Whatever has happened."""
        tasks: list[asyncio.Task[Any]] = [*self._writers, *self._followers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def loading(logs: Sequence[Log]) -> AsyncGenerator[Load]:
    load = Load(logs)
    try:
        await load.start()
        yield load
    finally:
        await load.stop()


@pytest.mark.parametrize("kills", [1, pytest.param(12, marks=pytest.mark.soak)])
@pytest.mark.allow_blocking  # comparing all of it
async def test_a_killed_leader_loses_and_doubles_nothing(
    nats_cluster: NatsCluster, kills: int
) -> None:
    rng = random.Random(kills)
    async with (
        asyncio.timeout(DEADLINE_S + kills * KILL_S_MAX),
        opened(nats_cluster.url) as one,
        opened(nats_cluster.url) as two,
        AsyncExitStack() as stack,
    ):
        loads = [await stack.enter_async_context(loading([one, two])) for _ in range(3)]
        for number in range(kills):
            await asyncio.gather(*(load.grow(rng.randint(20, 100)) for load in loads))
            stream = ("RUNSTREAM", "RUNSTREAM_RUNS")[number % 4 == 3]
            leader = await asyncio.to_thread(nats_cluster.leader, stream)
            await asyncio.to_thread(leader.kill)
            if number % 2:  # else it comes back at once
                await asyncio.gather(*(load.grow(20) for load in loads))
            await asyncio.to_thread(leader.start)
        for load in loads:
            await load.grow(50)
            await load.end()
        # Whoever leads by now knows the same, and so does who has none of it in memory.
        async with opened(nats_cluster.url) as anew:
            for load in loads:
                stored = await read_all(anew, load.run)
                assert len(stored) == len(load.acknowledged) + 1
    report(f"{sum(len(load.acknowledged) for load in loads)} appends, {kills} kills")
