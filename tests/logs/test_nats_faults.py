"""A NATS that is killed, paused, emptied, full or cut off: nothing acknowledged is lost or doubled, and
nobody is left waiting in silence.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runstream.conformance.check import (
    collect,
    ending,
    notes,
    numbers_of,
    read_all,
    subscribe,
)
from runstream.errors import LogUnavailable, RunNotFound
from runstream.log import Appended, LeaseClaim, Log, Producer
from runstream.logs import open_log
from runstream.record import Cursor, Draft, Record, make_draft
from services.nats import NatsServer, running_nats
from services.proxy import Proxy, proxy_to

# No honest wait of a test comes near it.
DEADLINE_S = 60.0


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Log]:
    log = await asyncio.to_thread(open_log, url)
    try:
        yield log
    finally:
        await log.aclose()


def through(proxy: Proxy, server: NatsServer) -> str:
    return server.url.replace(f":{server.port}", f":{proxy.port}")


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


async def test_kills_under_load_lose_and_double_nothing(nats_server: NatsServer) -> None:
    count, kills = 1500, 4
    async with opened(nats_server.url) as log, opened(nats_server.url) as other:
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
            await asyncio.to_thread(nats_server.restart)
        await asyncio.gather(*writers)
        await log.append("r", [ending("r")], final=True)
        stored = await read_all(log, "r")
        assert sorted(numbers_of(stored[:-1])) == sorted([*range(count), *range(count)])
        for follower in followers:
            seen = await follower
            assert [record.seq for record in seen] == list(range(1, 2 * count + 2))


async def test_a_pause_of_the_server_is_survived_by_writers_and_readers(
    nats_server: NatsServer,
) -> None:
    async with opened(nats_server.url) as log:
        await log.open("r", producer=None, workflow="w")
        await log.append("r", notes("r", [0]), producer=Producer("p", 0, 1))
        subscription = subscribe(log, "r")
        assert numbers_of(await collect(subscription, 1)) == [0]
        follower = asyncio.ensure_future(collect(subscription))
        nats_server.pause()
        with pytest.raises(LogUnavailable):
            await log.append("r", notes("r", [1]), producer=Producer("p", 0, 2))
        with pytest.raises(LogUnavailable):
            await log.open("r", producer="q")
        nats_server.resume()
        await insist(log, "r", notes("r", [1]), Producer("p", 0, 2))
        # What hung in the server's buffers is answered as what it is: made once, or not at all.
        assert (await log.open("r", producer="q")).epoch in (1, 2)
        await log.append("r", [ending("r")], final=True)
        assert numbers_of((await follower)[:-1]) == [1]


@pytest.mark.parametrize("producer", [None, Producer("p", 0, 1)], ids=["without", "with"])
async def test_an_append_whose_reply_is_lost_is_stored_once(
    nats_server: NatsServer, producer: Producer | None
) -> None:
    async with proxy_to(nats_server.port) as proxy, opened(through(proxy, nats_server)) as log:
        await log.open("r", producer=None, workflow="w")
        for number in range(5):
            sent = producer and Producer(producer.id, 0, number + 1)
            proxy.lose_reply_to(b"RUNSTREAM.changes")
            appended = await log.append("r", notes("r", [number]), producer=sent)
            assert proxy.lost.is_set()
            assert (appended.first_seq, appended.last_seq) == (number + 1, number + 1)
        assert numbers_of(await read_all(log, "r")) == list(range(5))


async def test_an_opening_whose_reply_is_lost_is_one_opening(nats_server: NatsServer) -> None:
    async with proxy_to(nats_server.port) as proxy, opened(through(proxy, nats_server)) as log:
        proxy.lose_reply_to(b"RUNSTREAM.changes")
        first = await log.open("r", producer="p", workflow="w", claim=LeaseClaim(60.0))
        assert proxy.lost.is_set()
        assert (first.created, first.epoch) == (True, 1)
        assert [info.run_id for info in await log.list()] == ["r"]


async def test_readers_and_writers_go_on_when_their_connections_are_cut(
    nats_server: NatsServer,
) -> None:
    async with proxy_to(nats_server.port) as proxy, opened(through(proxy, nats_server)) as log:
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


async def test_an_emptied_server_is_told_as_a_gap(nats_server: NatsServer) -> None:
    async with opened(nats_server.url) as log:
        for run in ("rebuilt", "gone"):
            await log.open(run, producer=None, workflow="w")
            await log.append(run, notes(run, range(3)))
        subscriptions = [subscribe(log, run) for run in ("rebuilt", "gone")]
        for subscription in subscriptions:
            assert numbers_of(await collect(subscription, 3)) == [0, 1, 2]
        waiting = asyncio.ensure_future(collect(subscriptions[1]))
        await asyncio.to_thread(nats_server.drop_streams)
        await log.open("rebuilt", producer=None, workflow="w")
        await log.append("rebuilt", [*notes("rebuilt", [7]), ending("rebuilt")], final=True)
        rebuilt, gone = await collect(subscriptions[0]), await waiting
        assert [record.kind for record in rebuilt] == ["stream.gap", "note", "run.completed"]
        assert rebuilt[0].data["reason"] == "generation_changed"
        assert [record.data["reason"] for record in gone] == ["removed"]
        with pytest.raises(RunNotFound):
            await log.append("gone", notes("gone", [4]), producer=Producer("p", 0, 4))


async def test_a_durable_server_keeps_its_generations_when_it_is_restarted(
    nats_server: NatsServer,
) -> None:
    async with opened(nats_server.url) as log:
        before = (await log.open("r", producer=None, workflow="w")).info.generation
        await log.append("r", notes("r", [0]))
        await asyncio.to_thread(nats_server.restart)
        await log.append("r", notes("r", [1]))
        page = await log.read("r", after=Cursor(before, 0))
        assert numbers_of(page.drafts) == [0, 1]


async def test_a_full_server_refuses_appends_and_takes_them_again(tmp_path: Path) -> None:
    options = tmp_path / "nats.conf"
    options.write_text("jetstream { max_file_store: 8388608 }\n", encoding="utf-8")
    with running_nats(tmp_path, "-c", str(options)) as server:
        async with opened(server.url) as log:
            await log.open("old", producer=None, workflow="w")
            await log.open("r", producer=None, workflow="w")
            blob = make_draft("old", "note", {"blob": "x" * 100_000})
            with pytest.raises(LogUnavailable, match="NATS"):
                for _ in range(60):
                    await log.append("old", [blob] * 8)
            with pytest.raises(LogUnavailable):
                await log.append("r", [make_draft("r", "note", {"blob": "x" * 100_000})])
            assert await read_all(log, "old")
            options.write_text("jetstream { max_file_store: 80000000 }\n", encoding="utf-8")
            await asyncio.to_thread(server.restart)
            await insist(log, "r", notes("r", [1]), Producer("p", 0, 1))
            assert numbers_of(await read_all(log, "r")) == [1]
