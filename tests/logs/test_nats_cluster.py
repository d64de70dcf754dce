"""A cluster of three NATS servers, of which any is killed or paused: nothing acknowledged is lost, doubled or
told in another order, whoever leads.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from opened_log import insist
from programs import report
from runstream.conformance.check import (
    collect,
    ending,
    new_name,
    notes,
    numbers_of,
    read_all,
    subscribe,
)
from runstream.errors import InvalidURL, RunNotFound
from runstream.log import Log, Producer
from runstream.logs import open_log
from runstream.logs.nats import NatsLog
from runstream.record import Record
from services.nats import NatsCluster

# Guards against hanging. A new leader is elected within ten seconds, on an idle machine.
DEADLINE_S = 120.0
KILL_S_MAX = 90.0
# Longer than the others wait for a sign of life.
PAUSE_S = 30.0


def plainly_opened(url: str) -> NatsLog:
    log = open_log(url)
    assert isinstance(log, NatsLog)
    return log


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[NatsLog]:
    log = await asyncio.to_thread(plainly_opened, url)
    try:
        yield log
    finally:
        await log.aclose()


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
        await asyncio.to_thread(nats_cluster.wait_leaders)
        async with opened(nats_cluster.url) as anew:
            for load in loads:
                stored = await read_all(anew, load.run)
                assert len(stored) == len(load.acknowledged) + 1
    report(f"{sum(len(load.acknowledged) for load in loads)} appends, {kills} kills")


async def test_a_crash_of_all_servers_takes_nothing_but_what_was_trimmed_and_removed(
    nats_cluster: NatsCluster,
) -> None:
    kept, trimmed, removed = new_name(), new_name(), new_name()
    async with asyncio.timeout(DEADLINE_S), opened(nats_cluster.url) as log:
        for run in (kept, trimmed, removed):
            await log.open(run, producer=None, workflow="w")
            for number in range(20):
                await log.append(run, notes(run, [number]))
        await log.append(removed, [ending(removed)], final=True)
        await log.trim(trimmed, through=15)
        await log.remove(removed)
        await log.append(kept, notes(kept, [20]))
        await asyncio.to_thread(nats_cluster.kill)
        await asyncio.to_thread(nats_cluster.start)
        await asyncio.to_thread(nats_cluster.wait_leaders)
        async with opened(nats_cluster.url) as anew:
            assert numbers_of(await read_all(anew, kept)) == list(range(21))
            assert numbers_of(await read_all(anew, trimmed, after=15)) == list(range(15, 20))
            with pytest.raises(RunNotFound):
                await anew.info(removed)
        assert (await log.open(removed, producer=None, workflow="w")).created


@pytest.mark.soak
@pytest.mark.allow_blocking  # comparing all of it
async def test_a_leader_that_hangs_is_replaced_and_comes_back_as_one_of_many(
    nats_cluster: NatsCluster,
) -> None:
    async with (
        asyncio.timeout(5 * DEADLINE_S),
        opened(nats_cluster.url) as one,
        opened(nats_cluster.url) as two,
        loading([one, two]) as load,
    ):
        for _ in range(3):
            await load.grow(50)
            leader = await asyncio.to_thread(nats_cluster.leader)
            await asyncio.to_thread(leader.pause)
            await asyncio.sleep(PAUSE_S)
            leader.resume()
            await load.grow(50)
        await load.end()
        async with opened(nats_cluster.url) as anew:
            assert len(await read_all(anew, load.run)) == len(load.acknowledged) + 1


def test_fewer_replicas_than_are_wanted_are_refused(nats_cluster: NatsCluster) -> None:
    url = nats_cluster.url.partition("?")[0] + f"/{new_name()[-8:]}"
    plainly_opened(f"{url}?replicas=2").close()
    with pytest.raises(InvalidURL, match=r"replicas=3, but the log at .* has 2"):
        open_log(f"{url}?replicas=3")
    log = plainly_opened(url)
    assert "a majority of 2 servers" in log.promise
    log.close()
    with pytest.raises(InvalidURL, match="require=durable"):
        open_log(f"{url}?require=durable")


async def test_streams_that_are_dropped_are_told_as_a_gap(nats_cluster: NatsCluster) -> None:
    name, run = f"N{new_name()[-8:]}", new_name()
    url = nats_cluster.url.replace("?", f"/{name}?")
    async with asyncio.timeout(DEADLINE_S), opened(url) as log, opened(url) as other:
        await log.open(run, producer=None, workflow="w")
        await log.append(run, notes(run, range(3)))
        subscription = subscribe(other, run)
        assert numbers_of(await collect(subscription, 3)) == [0, 1, 2]
        for stream in (name, f"{name}_RUNS"):
            await asyncio.to_thread(nats_cluster.servers[0].api, f"STREAM.DELETE.{stream}")
        assert (await log.open(run, producer=None, workflow="w")).created
        await log.append(run, [*notes(run, [7]), ending(run)], final=True)
        seen = await collect(subscription)
        assert [record.kind for record in seen] == ["stream.gap", "note", "run.completed"]
        assert seen[0].data["reason"] == "generation_changed"
