"""An engine that is killed, paused, emptied, full or cut off, whichever it is: nothing acknowledged is lost
or doubled, and nobody is left waiting in silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncGenerator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from opened_log import insist, opened
from runstream.conformance.check import (
    collect,
    ending,
    kinds_of,
    notes,
    numbers_of,
    read_all,
    subscribe,
)
from runstream.errors import LogUnavailable, RunNotFound
from runstream.log import LeaseClaim, Log, Producer
from runstream.logs import open_log
from runstream.record import Cursor, Draft, Record, make_draft
from services.log_engine import LogEngine
from services.proxy import Proxy, proxy_to

# No honest wait of a test comes near it.
DEADLINE_S = 120.0


@asynccontextmanager
async def opened_through_proxy(engine: LogEngine) -> AsyncGenerator[tuple[Proxy, Log]]:
    async with (
        asyncio.timeout(DEADLINE_S),
        proxy_to(engine.port) as proxy,
        opened(engine.url_at(proxy.port)) as log,
    ):
        yield proxy, log


async def wait_for(log: Log, count: int) -> int:
    """Wait until there are so many records; how many there are."""
    while True:
        with contextlib.suppress(LogUnavailable):
            last = (await log.info("r")).last_seq
            if last >= count:
                return last
            await log.wait("r", after=last, timeout=1.0)


async def produce(log: Log, who: str, count: int) -> None:
    """Number after number, each batch until it is acknowledged."""
    for start in range(0, count, 5):
        await insist(log, "r", notes("r", range(start, start + 5)), Producer(who, 0, start + 1))


async def follow(log: Log) -> asyncio.Future[list[Record]]:
    """Begin to follow, and go on to the end. (Whoever begins while nobody answers is told so.)"""
    subscription = subscribe(log, "r")
    begun = await collect(subscription, 1)

    async def rest() -> list[Record]:
        return [*begun, *await collect(subscription)]

    return asyncio.ensure_future(rest())


async def test_kills_under_load_lose_and_double_nothing(engine: LogEngine) -> None:
    count, kills = 1500, 4
    async with asyncio.timeout(DEADLINE_S), opened(engine.url) as log, opened(engine.url) as other:
        await log.open("r", producer=None, workflow="w")
        await log.append("r", notes("r", [-1]))
        followers = [await follow(one) for one in (log, other)]
        writers = [
            asyncio.ensure_future(produce(one, who, count))
            for one, who in ((log, "a"), (other, "b"))
        ]
        rng = random.Random(5)
        for _ in range(kills):
            last = await wait_for(log, 0)
            await wait_for(log, min(last + rng.randint(50, 300), 2 * count - 100))
            await asyncio.to_thread(engine.restart)
        await asyncio.gather(*writers)
        await insist(log, "r", [ending("r")], Producer("end", 0, 1))
        stored = await read_all(log, "r")
        assert sorted(numbers_of(stored[:-1])) == sorted([-1, *range(count), *range(count)])
        for follower in followers:
            seen = await follower
            assert [record.seq for record in seen] == list(range(1, 2 * count + 3))


@pytest.mark.parametrize(
    "pause_s", [0.3, pytest.param(30.0, marks=pytest.mark.soak)], ids=["short", "long"]
)
async def test_a_pause_of_the_engine_delays_writers_and_readers_and_loses_nothing(
    engine: LogEngine, pause_s: float
) -> None:
    async with asyncio.timeout(DEADLINE_S + pause_s), opened(engine.url) as log:
        await log.open("r", producer=None, workflow="w")
        await log.append("r", notes("r", [0]))
        follower = await follow(log)
        await asyncio.to_thread(engine.pause)
        appends = [
            asyncio.ensure_future(insist(log, "r", notes("r", [n]), Producer(f"p{n}", 0, 1)))
            for n in range(1, 20)
        ]
        done, _ = await asyncio.wait(appends, timeout=pause_s)
        assert not done
        engine.resume()
        await asyncio.gather(*appends)
        await insist(log, "r", [ending("r")], Producer("end", 0, 1))
        seen = await follower
        assert sorted(numbers_of(seen[:-1])) == list(range(20))
        assert [record.seq for record in seen] == list(range(1, 22))


async def test_an_append_whose_reply_is_lost_is_stored_once_and_says_so(engine: LogEngine) -> None:
    async with opened_through_proxy(engine) as (proxy, log):
        await log.open("r", producer=None, workflow="w")
        for number in range(1, 7):
            # By its own number or, without one, by what the log itself has noted.
            sent = Producer("p", 0, (number + 1) // 2) if number % 2 else None
            proxy.lose_reply_to(b'"marked"')
            appended = await log.append(
                "r", [make_draft("r", "marked", {"n": number})], producer=sent
            )
            assert proxy.lost.is_set()
            assert (appended.first_seq, appended.last_seq) == (number, number)
        assert numbers_of(await read_all(log, "r")) == list(range(1, 7))


async def test_an_append_that_never_reached_the_engine_is_made_again(engine: LogEngine) -> None:
    async with opened_through_proxy(engine) as (proxy, log):
        await log.open("r", producer=None, workflow="w")
        for number in range(1, 6):
            proxy.hold()
            append = asyncio.ensure_future(log.append("r", notes("r", [number])))
            await asyncio.wait([append], timeout=0.02)
            assert not append.done()
            proxy.cut()
            proxy.flow()
            assert (await append).last_seq == number
        assert numbers_of(await read_all(log, "r")) == list(range(1, 6))


async def test_an_opening_whose_reply_is_lost_is_one_opening(engine: LogEngine) -> None:
    async with opened_through_proxy(engine) as (proxy, log):
        proxy.lose_reply_to(engine.opening)
        first = await log.open("r", producer="p", workflow="w", claim=LeaseClaim(60.0))
        assert proxy.lost.is_set()
        assert (first.created, first.epoch) == (True, 1)
        assert [info.run_id for info in await log.list()] == ["r"]


async def test_readers_and_writers_go_on_when_their_connections_are_cut(engine: LogEngine) -> None:
    async with opened_through_proxy(engine) as (proxy, log):
        await log.open("r", producer=None, workflow="w")
        await log.append("r", notes("r", [-1]))
        follower = await follow(log)
        writer = asyncio.ensure_future(produce(log, "p", 300))
        for count in range(20, 300, 40):
            await wait_for(log, count)
            proxy.cut()
        await writer
        await insist(log, "r", [ending("r")], Producer("end", 0, 1))
        assert numbers_of((await follower)[:-1]) == list(range(-1, 300))


async def test_an_engine_that_cannot_be_reached_is_said_and_used_again_when_it_can(
    engine: LogEngine,
) -> None:
    async with asyncio.timeout(DEADLINE_S), opened(engine.url) as log:
        await log.open("r", producer=None, workflow="w")
        await log.append("r", notes("r", [1]), producer=Producer("p", 0, 1))
        subscription = subscribe(log, "r")
        first = await anext(subscription)
        following = asyncio.ensure_future(collect(subscription))
        await asyncio.to_thread(engine.kill)
        calls: list[Awaitable[object]] = [
            log.append("r", notes("r", [2]), producer=Producer("p", 0, 2)),
            log.append("r", [make_draft("r", "refused", {})]),
            log.info("r"),
            log.list(),
        ]
        for refusal in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(refusal, LogUnavailable)
            assert "127.0.0.1" in str(refusal)
        await asyncio.to_thread(engine.start)
        assert (await insist(log, "r", notes("r", [2]), Producer("p", 0, 2))).last_seq == 2
        await insist(log, "r", [ending("r")], Producer("p", 0, 3))
        assert kinds_of([first, *await following]) == ["note", "note", "run.completed"]


@pytest.mark.parametrize("fault", ["killed", "paused"])
async def test_a_wait_for_an_engine_that_does_not_answer_ends_in_time_and_is_no_error(
    engine: LogEngine, fault: str
) -> None:
    async with asyncio.timeout(DEADLINE_S), opened(engine.url) as log:
        await log.open("r", producer=None, workflow="w")
        await asyncio.to_thread(engine.kill if fault == "killed" else engine.pause)
        asking = asyncio.ensure_future(log.info("r"))  # it waits longer
        for run in ("r", "unknown"):
            await log.wait(run, after=0, timeout=0.1)
        if fault == "paused":
            assert not asking.done()
            engine.resume()
        else:
            await asyncio.to_thread(engine.start)
        await asyncio.gather(asking, return_exceptions=True)


async def test_an_emptied_engine_is_told_as_a_gap(engine: LogEngine) -> None:
    async with asyncio.timeout(DEADLINE_S), opened(engine.url) as log, opened(engine.url) as other:
        for run in ("rebuilt", "gone"):
            await log.open(run, producer=None, workflow="w")
            await log.append(run, notes(run, range(3)))
        subscriptions = [subscribe(log, "rebuilt"), subscribe(other, "gone")]
        for subscription in subscriptions:
            assert numbers_of(await collect(subscription, 3)) == [0, 1, 2]
        waiting = asyncio.ensure_future(collect(subscriptions[1]))
        await asyncio.to_thread(engine.empty)
        await log.open("rebuilt", producer=None, workflow="w")
        await log.append("rebuilt", [*notes("rebuilt", [7]), ending("rebuilt")], final=True)
        rebuilt, gone = await collect(subscriptions[0]), await waiting
        assert [record.kind for record in rebuilt] == ["stream.gap", "note", "run.completed"]
        assert rebuilt[0].data["reason"] == "generation_changed"
        assert [record.data["reason"] for record in gone] == ["removed"]
        with pytest.raises(RunNotFound):
            await log.append("gone", notes("gone", [4]), producer=Producer("p", 0, 4))


async def test_a_full_engine_refuses_appends_and_takes_them_again(engine: LogEngine) -> None:
    async with asyncio.timeout(DEADLINE_S), opened(f"{engine.url}?retention=off") as log:
        await log.open("r", producer=None, workflow="w")
        await asyncio.to_thread(engine.fill)
        stored = 0
        with pytest.raises(LogUnavailable, match=r"room|maxmemory|quota|resources"):
            while stored < 500:
                await log.append("r", [large(stored)], producer=Producer("p", 0, stored + 1))
                stored += 1
        assert (await log.info("r")).last_seq == stored
        await asyncio.to_thread(engine.make_room)
        await insist(log, "r", [large(stored)], Producer("p", 0, stored + 1))
        assert len(await read_all(log, "r")) == stored + 1


def large(number: int) -> Draft:
    """Random, so that it takes the room that it says."""
    return make_draft("r", "large", {"n": number, "filler": secrets.token_hex(100_000)})


async def test_a_durable_engine_keeps_its_generations_when_it_is_restarted(
    engine: LogEngine,
) -> None:
    async with asyncio.timeout(DEADLINE_S), opened(engine.url) as log:
        before = (await log.open("r", producer=None, workflow="w")).info.generation
        await log.append("r", notes("r", [0]))
        await asyncio.to_thread(engine.restart)
        await insist(log, "r", notes("r", [1]), Producer("p", 0, 1))
        page = await log.read("r", after=Cursor(before, 0))
        assert numbers_of(page.drafts) == [0, 1]


async def test_a_log_closes_while_its_engine_is_paused(
    engine: LogEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long it tries to store what is queued is not the point.
    monkeypatch.setattr("runstream.logs.postgres.CLOSE_S", 0.5)
    log = await asyncio.to_thread(open_log, engine.url)
    await log.open("r", producer=None, workflow="w")
    await log.append("r", notes("r", [1]))
    following = await follow(log)
    await asyncio.to_thread(engine.pause)
    calls: list[asyncio.Future[Any]] = [
        following,
        asyncio.ensure_future(log.append("r", notes("r", [2]))),
        asyncio.ensure_future(log.wait("r", after=1, timeout=10 * DEADLINE_S)),
        asyncio.ensure_future(log.wait("not there", after=0, timeout=10 * DEADLINE_S)),
        asyncio.ensure_future(log.wait("nor-this", after=0, timeout=10 * DEADLINE_S)),
        asyncio.ensure_future(log.info("r")),
    ]
    await asyncio.wait(calls, timeout=0.05)
    async with asyncio.timeout(DEADLINE_S):
        await log.aclose()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    engine.resume()
    assert {type(outcome).__name__ for outcome in outcomes} == {"LogClosed"}
