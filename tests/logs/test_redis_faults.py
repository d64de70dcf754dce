"""A Redis that is killed, paused, emptied, full or cut off: nothing acknowledged is lost or doubled, and
nobody is left waiting in silence.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runstream.conformance.check import (
    collect,
    ending,
    new_name,
    notes,
    numbers_of,
    read_all,
    subscribe,
)
from runstream.errors import InvalidInput, InvalidPosition, LogUnavailable, RunNotFound
from runstream.log import Appended, LeaseClaim, Log, Producer
from runstream.logs import open_log
from runstream.record import Cursor, Draft, Record
from services.proxy import Proxy, proxy_to
from services.redis import RedisServer

# No honest wait of a test comes near it.
DEADLINE_S = 60.0


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Log]:
    log = await asyncio.to_thread(open_log, url)
    try:
        yield log
    finally:
        await log.aclose()


def through(proxy: Proxy, server: RedisServer) -> str:
    return server.url.replace(f":{server.port}/", f":{proxy.port}/")


async def insist(log: Log, run: str, drafts: Sequence[Draft], producer: Producer) -> Appended:
    """As a publisher does: send the same batch until the log answers."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                final = drafts[-1].is_terminal
                return await log.append(run, drafts, producer=producer, final=final)
            except LogUnavailable:
                continue


async def produce(log: Log, run: str, who: str, count: int) -> None:
    """Number after number, each batch until it is acknowledged."""
    opened = await log.open(run, producer=who)
    for start in range(0, count, 5):
        batch = notes(run, range(start, start + 5))
        await insist(log, run, batch, Producer(who, opened.epoch, start + 1))


async def follow(log: Log, run: str) -> list[Record]:
    return await collect(subscribe(log, run))


async def test_kills_under_load_lose_and_double_nothing(redis_server: RedisServer) -> None:
    count, kills = 1500, 4
    async with opened(redis_server.url) as log, opened(redis_server.url) as other:
        await log.open("r", producer=None, workflow="w")
        followers = [asyncio.ensure_future(follow(one, "r")) for one in (log, other)]
        writers = [
            asyncio.ensure_future(produce(one, "r", who, count))
            for one, who in ((log, "a"), (other, "b"))
        ]
        rng = random.Random(5)
        for _ in range(kills):
            info = await log.info("r")
            aim = info.last_seq + rng.randint(50, 300)
            while info.last_seq < min(aim, 2 * count - 100):
                await log.wait("r", after=info.last_seq, timeout=1.0)
                try:
                    info = await log.info("r")
                except LogUnavailable:
                    continue
            await asyncio.to_thread(redis_server.restart)
        await asyncio.gather(*writers)
        await log.append("r", [ending("r")], final=True)
        stored = await read_all(log, "r")
        assert sorted(numbers_of(stored[:-1])) == sorted([*range(count), *range(count)])
        for follower in followers:
            seen = await follower
            assert [record.seq for record in seen] == list(range(1, 2 * count + 2))


async def test_a_pause_of_the_server_is_survived_by_writers_and_readers(
    redis_server: RedisServer,
) -> None:
    async with opened(redis_server.url) as log:
        await log.open("r", producer=None, workflow="w")
        await log.append("r", notes("r", [0]), producer=Producer("p", 0, 1))
        subscription = subscribe(log, "r")
        assert numbers_of(await collect(subscription, 1)) == [0]
        follower = asyncio.ensure_future(collect(subscription))
        redis_server.pause()
        with pytest.raises(LogUnavailable):
            await log.append("r", notes("r", [1]), producer=Producer("p", 0, 2))
        with pytest.raises(LogUnavailable):
            await log.open("r", producer="q")
        redis_server.resume()
        await insist(log, "r", notes("r", [1]), Producer("p", 0, 2))
        # What hung in the server's buffers is void: it has not raised the epoch meanwhile.
        assert (await log.open("r", producer="q")).epoch == 1
        await log.append("r", [ending("r")], final=True)
        assert numbers_of((await follower)[:-1]) == [1]


@pytest.mark.parametrize("producer", [None, Producer("p", 0, 1)], ids=["without", "with"])
async def test_an_append_whose_reply_is_lost_is_stored_once(
    redis_server: RedisServer, producer: Producer | None
) -> None:
    async with proxy_to(redis_server.port) as proxy, opened(through(proxy, redis_server)) as log:
        await log.open("r", producer=None, workflow="w")
        for number in range(5):
            sent = producer and Producer(producer.id, 0, number + 1)
            proxy.lose_reply_to(b"EVALSHA")
            appended = await log.append("r", notes("r", [number]), producer=sent)
            assert proxy.lost.is_set()
            assert (appended.first_seq, appended.last_seq) == (number + 1, number + 1)
        assert numbers_of(await read_all(log, "r")) == list(range(5))


async def test_an_opening_whose_reply_is_lost_is_one_opening(redis_server: RedisServer) -> None:
    async with proxy_to(redis_server.port) as proxy, opened(through(proxy, redis_server)) as log:
        proxy.lose_reply_to(b"EVALSHA")
        first = await log.open("r", producer="p", workflow="w", claim=LeaseClaim(60.0))
        assert proxy.lost.is_set()
        assert (first.created, first.epoch) == (True, 1)
        assert [info.run_id for info in await log.list()] == ["r"]


async def test_readers_and_writers_go_on_when_their_connections_are_cut(
    redis_server: RedisServer,
) -> None:
    async with proxy_to(redis_server.port) as proxy, opened(through(proxy, redis_server)) as log:
        await log.open("r", producer=None, workflow="w")
        follower = asyncio.ensure_future(follow(log, "r"))
        writer = asyncio.ensure_future(produce(log, "r", "p", 300))
        for count in range(20, 300, 40):
            while (await log.info("r")).last_seq < count:
                await log.wait("r", after=count - 1, timeout=DEADLINE_S)
            proxy.cut()
        await writer
        await log.append("r", [ending("r")], final=True)
        assert numbers_of((await follower)[:-1]) == list(range(300))


async def test_a_wait_that_a_broken_connection_could_miss_returns(
    redis_server: RedisServer,
) -> None:
    async with (
        proxy_to(redis_server.port) as proxy,
        opened(through(proxy, redis_server)) as log,
        opened(redis_server.url) as other,
    ):
        await log.open("r", producer=None, workflow="w")
        waiting = asyncio.ensure_future(log.wait("r", after=0, timeout=DEADLINE_S))
        while "runstream:0:r" not in await asyncio.to_thread(
            redis_server.call, "PUBSUB", "CHANNELS"
        ):
            assert not waiting.done()
        proxy.refuse()
        await other.append("r", notes("r", [1]))
        proxy.accept()
        async with asyncio.timeout(DEADLINE_S):
            await waiting
        assert (await log.read("r", after=Cursor(None, 0))).drafts


async def test_a_silent_network_is_noticed_and_then_gone_around(redis_server: RedisServer) -> None:
    async with proxy_to(redis_server.port) as proxy, opened(through(proxy, redis_server)) as log:
        await log.open("r", producer=None, workflow="w")
        proxy.hold()
        with pytest.raises(LogUnavailable, match="does not answer"):
            await log.info("r")
        proxy.flow()
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    assert (await log.info("r")).run_id == "r"
                    break
                except LogUnavailable:
                    continue


async def test_an_emptied_server_is_told_as_a_gap(redis_server: RedisServer) -> None:
    async with opened(redis_server.url) as log:
        for run in ("rebuilt", "gone"):
            await log.open(run, producer=None, workflow="w")
            await log.append(run, notes(run, range(3)))
        subscriptions = [subscribe(log, run) for run in ("rebuilt", "gone")]
        for subscription in subscriptions:
            assert numbers_of(await collect(subscription, 3)) == [0, 1, 2]
        waiting = asyncio.ensure_future(collect(subscriptions[1]))
        await asyncio.to_thread(redis_server.call, "FLUSHALL")
        await log.open("rebuilt", producer=None, workflow="w")
        await log.append("rebuilt", [*notes("rebuilt", [7]), ending("rebuilt")], final=True)
        rebuilt, gone = await collect(subscriptions[0]), await waiting
        assert [record.kind for record in rebuilt] == ["stream.gap", "note", "run.completed"]
        assert rebuilt[0].data["reason"] == "generation_changed"
        assert [record.data["reason"] for record in gone] == ["removed"]
        with pytest.raises(RunNotFound):
            await log.append("gone", notes("gone", [4]), producer=Producer("p", 0, 4))


async def test_a_full_server_refuses_appends_and_takes_them_again(
    redis_server: RedisServer,
) -> None:
    async with opened(redis_server.url) as log:
        await log.open("r", producer=None, workflow="w")
        await log.append("r", notes("r", [0]), producer=Producer("p", 0, 1))
        await asyncio.to_thread(redis_server.call, "CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(LogUnavailable, match="maxmemory"):
            await log.append("r", notes("r", [1]), producer=Producer("p", 0, 2))
        with pytest.raises(LogUnavailable, match="maxmemory"):
            await log.open("new", producer=None, workflow="w")
        assert numbers_of(await read_all(log, "r")) == [0]
        await asyncio.to_thread(redis_server.call, "CONFIG", "SET", "maxmemory", "0")
        await log.append("r", notes("r", [1]), producer=Producer("p", 0, 2))
        assert numbers_of(await read_all(log, "r")) == [0, 1]


async def test_a_server_that_forgot_what_it_acknowledged_is_told_as_a_gap(
    redis_server: RedisServer,
) -> None:
    folder = redis_server.folder
    async with opened(f"{redis_server.url}") as log:
        await log.open("r", producer=None, workflow="w")
        await log.append("r", notes("r", range(3)), producer=Producer("p", 0, 1))
    await asyncio.to_thread(redis_server.stop)
    # What a server with appendfsync everysec has on its disk after a power cut.
    # (In a folder of its own since Redis 7.)
    old = {path: path.read_bytes() for path in folder.rglob("appendonly*") if path.is_file()}
    redis_server.command += ["--appendfsync", "everysec"]
    await asyncio.to_thread(redis_server.start)
    async with opened(redis_server.url) as log:
        subscription = subscribe(log, "r")
        await log.append("r", notes("r", range(3, 6)), producer=Producer("p", 0, 4))
        begun = await collect(subscription, 6)
        await asyncio.to_thread(redis_server.kill)
        for path, content in old.items():
            path.write_bytes(content)
        following = asyncio.ensure_future(collect(subscription))
        await asyncio.to_thread(redis_server.start)
        await insist(log, "r", notes("r", range(6, 9)), Producer("p", 0, 7))
        await insist(log, "r", [ending("r")], Producer("p", 0, 10))
        rest = await following
        assert numbers_of(begun) == list(range(6))
        assert rest[0].data["reason"] == "generation_changed"
        assert numbers_of(rest[1:-1]) == [0, 1, 2, 6, 7, 8]


async def test_a_durable_server_keeps_its_generations_when_it_is_restarted(
    redis_server: RedisServer,
) -> None:
    async with opened(redis_server.url) as log:
        before = (await log.open("r", producer=None, workflow="w")).info.generation
        await log.append("r", notes("r", [0]))
        await asyncio.to_thread(redis_server.restart)
        await log.append("r", notes("r", [1]))
        page = await log.read("r", after=Cursor(before, 0))
        assert numbers_of(page.drafts) == [0, 1]


async def test_what_cannot_be_sent_is_refused_alone(redis_url: str) -> None:
    run = new_name()
    async with opened(redis_url) as log:
        await log.open(run, producer=None, workflow="w")
        odd = log.append(run, notes(run, [0]), producer=Producer("\ud800", 0, 1))
        good = log.append(run, notes(run, [1]), producer=Producer("p", 0, 1))
        refused, stored = await asyncio.gather(odd, good, return_exceptions=True)
        assert isinstance(refused, InvalidInput)
        assert stored == Appended(1, 1)
        await log.wait("\ud800", after=0, timeout=0.01)
        with pytest.raises(RunNotFound):
            await log.info("\ud800")
        with pytest.raises(InvalidPosition):
            await log.read(run, after=Cursor(None, 10**30))


async def test_a_log_closes_while_its_server_is_paused(redis_server: RedisServer) -> None:
    log = await asyncio.to_thread(open_log, redis_server.url)
    await log.open("r", producer=None, workflow="w")
    following = asyncio.ensure_future(collect(subscribe(log, "r")))
    await log.append("r", notes("r", [1]))
    redis_server.pause()
    calls: list[asyncio.Future[Any]] = [
        following,
        asyncio.ensure_future(log.append("r", notes("r", [2]))),
        asyncio.ensure_future(log.wait("r", after=1, timeout=DEADLINE_S)),
        asyncio.ensure_future(log.wait("not there", after=0, timeout=DEADLINE_S)),
        asyncio.ensure_future(log.wait("nor-this", after=0, timeout=DEADLINE_S)),
        asyncio.ensure_future(log.info("r")),
    ]
    await asyncio.wait(calls, timeout=0.05)
    async with asyncio.timeout(DEADLINE_S):
        await log.aclose()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    redis_server.resume()
    assert {type(outcome).__name__ for outcome in outcomes} == {"LogClosed"}
