"""A PostgreSQL log whose server is killed, paused, cut off or out of space loses and doubles nothing."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from runstream.conformance.check import (
    collect,
    ending,
    kinds_of,
    notes,
    numbers_of,
    read_all,
    subscribe,
)
from runstream.errors import LogUnavailable
from runstream.log import Log, Producer, RunInfo
from runstream.logs import open_log
from runstream.record import Draft, make_draft
from services.postgres import PostgresServer
from services.proxy import proxy_to

RUN = "run-1"
# A guard against hanging: the server may be down for seconds on a loaded machine.
HANG_S = 60


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Log]:
    log = await asyncio.to_thread(open_log, url)
    try:
        yield log
    finally:
        await log.aclose()


async def store(
    log: Log, drafts: list[Draft], sent: Producer | None, *, final: bool = False
) -> None:
    """As a publisher does: the same batch again until the log answers."""
    while True:
        try:
            await log.append(RUN, drafts, producer=sent, final=final)
        except LogUnavailable:
            await asyncio.sleep(0.05)
        else:
            return


async def test_a_server_that_is_killed_under_load_loses_and_doubles_nothing(
    postgres_server: PostgresServer,
) -> None:
    server = postgres_server
    done = asyncio.Event()

    async def write(log: Log, producer: str) -> int:
        number = 0
        while not done.is_set() or number < 30:
            drafts = [make_draft(RUN, producer, {"n": number + n}) for n in range(3)]
            await store(log, drafts, Producer(producer, 0, number + 1))
            number += 3
        return number

    async with asyncio.timeout(HANG_S), opened(server.url) as log, opened(server.url) as other:
        await log.open(RUN, producer=None, workflow="nightly")
        await log.append(RUN, notes(RUN, [0]))
        subscriptions = [subscribe(one, RUN) for one in (log, other)]
        assert [(await anext(one)).seq for one in subscriptions] == [1, 1]
        following = [asyncio.ensure_future(collect(one)) for one in subscriptions]
        writing = [
            asyncio.ensure_future(write((log, other)[n % 2], f"writer-{n}")) for n in range(4)
        ]
        for _ in range(3):
            last = (await follow_up(log)).last_seq
            await log.wait(RUN, after=last + 20, timeout=HANG_S)
            await asyncio.to_thread(server.restart)
        done.set()
        written = await asyncio.gather(*writing)
        await store(log, [ending(RUN)], Producer("ender", 0, 1), final=True)
        for records in await asyncio.gather(*following):
            assert [record.seq for record in records] == list(range(2, len(records) + 2))
            for n, count in enumerate(written):
                mine = [record for record in records if record.kind == f"writer-{n}"]
                assert numbers_of(mine) == list(range(count))
            assert len(records) == sum(written) + 1


async def follow_up(log: Log) -> RunInfo:
    while True:
        try:
            return await log.info(RUN)
        except LogUnavailable:
            await asyncio.sleep(0.05)


async def test_an_append_whose_reply_is_lost_is_stored_once_and_says_so(
    postgres_server: PostgresServer,
) -> None:
    async with proxy_to(postgres_server.port) as proxy:
        url = postgres_server.url_at(proxy.port)
        async with asyncio.timeout(HANG_S), opened(url) as log:
            await log.open(RUN, producer=None, workflow="nightly")
            for number in range(1, 7):
                # By its own number or, without one, by the mark that the transaction left.
                sent = Producer("p", 0, (number + 1) // 2) if number % 2 else None
                proxy.lose_reply_to(b'"marked"')
                marked = make_draft(RUN, "marked", {"n": number})
                appended = await log.append(RUN, [marked], producer=sent)
                assert proxy.lost.is_set()
                assert appended.first_seq == appended.last_seq == number
            assert numbers_of(await read_all(log, RUN)) == list(range(1, 7))


async def test_an_append_that_never_reached_the_server_is_made_again(
    postgres_server: PostgresServer,
) -> None:
    async with proxy_to(postgres_server.port) as proxy:
        url = postgres_server.url_at(proxy.port)
        async with asyncio.timeout(HANG_S), opened(url) as log:
            await log.open(RUN, producer=None, workflow="nightly")
            for number in range(1, 6):
                proxy.hold()
                append = asyncio.ensure_future(log.append(RUN, notes(RUN, [number])))
                await asyncio.wait([append], timeout=0.02)
                assert not append.done()
                proxy.cut()
                proxy.flow()
                assert (await append).last_seq == number
            assert numbers_of(await read_all(log, RUN)) == list(range(1, 6))


async def test_a_server_that_cannot_be_reached_is_said_and_used_again_when_it_can(
    postgres_server: PostgresServer,
) -> None:
    async with proxy_to(postgres_server.port) as proxy:
        url = postgres_server.url_at(proxy.port)
        async with asyncio.timeout(HANG_S), opened(url) as log:
            await log.open(RUN, producer=None, workflow="nightly")
            await log.append(RUN, notes(RUN, [1]))
            subscription = subscribe(log, RUN)
            first = await anext(subscription)
            following = asyncio.ensure_future(collect(subscription))
            proxy.refuse()
            for call in (log.append(RUN, notes(RUN, [2])), log.info(RUN), log.list()):
                with pytest.raises(LogUnavailable, match=r"127\.0\.0\.1"):
                    await call
            proxy.accept()
            assert (await log.append(RUN, notes(RUN, [2]))).last_seq == 2
            await log.append(RUN, [ending(RUN)], final=True)
            assert kinds_of([first, *await following]) == ["note", "note", "run.completed"]


@pytest.mark.parametrize(
    "pause_s", [0.3, pytest.param(35, marks=pytest.mark.soak)], ids=["short", "long"]
)
async def test_a_server_that_is_paused_delays_and_loses_nothing(
    postgres_server: PostgresServer, pause_s: float
) -> None:
    server = postgres_server
    async with asyncio.timeout(HANG_S + pause_s), opened(server.url) as log:
        await log.open(RUN, producer=None, workflow="nightly")
        following = asyncio.ensure_future(collect(subscribe(log, RUN)))
        await log.append(RUN, notes(RUN, [0]))
        server.pause()
        appends = [
            asyncio.ensure_future(store(log, notes(RUN, [n]), Producer(f"p{n}", 0, 1)))
            for n in range(1, 20)
        ]
        done, _ = await asyncio.wait(appends, timeout=pause_s)
        assert not done
        server.resume()
        await asyncio.gather(*appends)
        await store(log, [ending(RUN)], Producer("ender", 0, 1), final=True)
        records = await following
        assert sorted(numbers_of(records[:-1])) == list(range(20))
        assert [record.seq for record in records] == list(range(1, 22))


async def test_a_log_closes_while_its_server_is_paused(postgres_server: PostgresServer) -> None:
    server = postgres_server
    log = await asyncio.to_thread(open_log, server.url)
    await log.open(RUN, producer=None, workflow="nightly")
    waiting = asyncio.ensure_future(collect(subscribe(log, RUN)))
    await log.append(RUN, notes(RUN, [1]))
    server.pause()
    append = asyncio.ensure_future(log.append(RUN, notes(RUN, [2])))
    await asyncio.wait([append], timeout=0.05)
    async with asyncio.timeout(HANG_S):
        await log.aclose()
        outcomes = await asyncio.gather(append, waiting, return_exceptions=True)
    server.resume()
    assert [type(outcome).__name__ for outcome in outcomes] == ["LogClosed"] * 2


async def test_a_full_disk_is_said_and_appends_go_on_when_there_is_room(
    postgres_server: PostgresServer,
) -> None:
    server = postgres_server
    # No file may grow beyond this: above the server's own (16 MiB), and soon reached by the table.
    limit = 20 * 1024 * 1024
    async with asyncio.timeout(HANG_S), opened(f"{server.url}?retention=off") as log:
        await log.open(RUN, producer=None, workflow="nightly")
        await asyncio.to_thread(server.limit_files, f"{limit}:unlimited")
        stored = 0
        with pytest.raises(LogUnavailable) as full:
            while stored < 100:
                await log.append(RUN, [large(stored)], producer=Producer("p", 0, stored + 1))
                stored += 1
        assert "within its quota" in str(full.value)
        assert (await log.info(RUN)).last_seq == stored
        await asyncio.to_thread(server.limit_files, "unlimited")
        await log.append(RUN, [large(stored)], producer=Producer("p", 0, stored + 1))
        assert len(await read_all(log, RUN)) == stored + 1


def large(number: int) -> Draft:
    """Random, so that it takes the room that it says."""
    return make_draft(RUN, "large", {"n": number, "filler": secrets.token_hex(400_000)})
