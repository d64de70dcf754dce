"""How processes on a PostgreSQL log hear of each other, and what a fork inherits."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from runstream import connect, flush, process, publish, start_run
from runstream.conformance.check import collect, ending, kinds_of, new_name, notes, subscribe
from runstream.logs import open_log
from runstream.logs.postgres_watcher import PAYLOAD_BYTES_MAX, Tails, as_news, as_payloads
from services.postgres import PostgresServer
from services.proxy import proxy_to

# A guard against hanging.
HANG_S = 120.0
RUN = "run-1"


@pytest.fixture(autouse=True)
def closed_publishers() -> Generator[None]:
    yield
    process.close_publishers()


def test_news_fit_into_notifications_and_come_back_whole() -> None:
    news = [(f"run-{'x' * (n % 120)}{n}", "0123456789ab", n) for n in range(2000)]
    payloads = as_payloads(news)
    assert len(payloads) > 10
    assert max(len(payload.encode()) for payload in payloads) <= PAYLOAD_BYTES_MAX
    assert [one for payload in payloads for one in as_news(payload)] == news
    assert as_payloads([]) == []


def test_what_is_known_of_a_stream_counts_only_while_every_commit_is_told() -> None:
    tails = Tails()
    assert tails.saw("run", ("run", "gen", 3, False))
    assert tails.get("run") is None
    tails.forget(told=True)
    assert tails.saw("run", ("run", "gen", 3, False))
    assert not tails.saw("run", ("run", "gen", 2, False))
    tails.heard([("run", "gen", 5), ("unasked", "gen", 9), ("run", "gen", 4)])
    assert tails.get("run") == ("run", "gen", 5, False)
    assert not tails.knows("unasked")
    tails.heard([("run", "another", 1)])
    assert tails.get("run") is None
    tails.saw("run", ("run", "gen", 3, False))
    tails.forget(told=False)
    assert tails.get("run") is None


async def test_what_nobody_told_is_found_by_looking(postgres_server: PostgresServer) -> None:
    server = postgres_server
    log = await asyncio.to_thread(open_log, server.url)
    async with asyncio.timeout(HANG_S):
        await log.open(RUN, producer=None, workflow="nightly")
        await log.append(RUN, notes(RUN, [1]))
        subscription = subscribe(log, RUN)
        assert (await anext(subscription)).seq == 1
        following = asyncio.ensure_future(collect(subscription))
        # As a process does that dies between its commit and telling.
        drafts = msgspec.json.encode([ending(RUN)])
        silent = (
            "WITH r AS (UPDATE runstream.run SET last_seq = 2, status = 'completed', ended = 1,"
            " revision = revision + 1 RETURNING id) INSERT INTO runstream.chunk SELECT id, 2, 2, 0, %b FROM r"
        )
        await asyncio.to_thread(server.sql, silent, drafts)
        assert kinds_of(await following) == ["run.completed"]
        await log.aclose()


OPEN_SILENTLY = (
    "WITH new AS (SELECT nextval(pg_get_serial_sequence('runstream.run', 'id')) AS id)"
    " INSERT INTO runstream.run (id, run_id, root, workflow, status, generation, first_seq, last_seq,"
    " created, epoch, counter, lease_s, grace_s, revision)"
    " SELECT id, %s, CASE WHEN %s THEN id ELSE (SELECT root FROM runstream.run WHERE run_id = 'there') END,"
    " 'w', 'running', 'a', 1, 0, 0, 0, 0, 0, 0, 0 FROM new"
)


@pytest.mark.parametrize("is_root", [True, False], ids=["root", "child"])
async def test_a_run_that_is_opened_just_before_the_first_look_ends_a_wait(
    postgres_server: PostgresServer, is_root: bool
) -> None:
    server = postgres_server
    listening = "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'LISTEN %%'"
    async with proxy_to(server.port) as proxy, asyncio.timeout(HANG_S):
        log = await asyncio.to_thread(open_log, server.url_at(proxy.port))
        await log.open("there", producer=None, workflow="nightly")
        while not await asyncio.to_thread(server.sql, listening):
            await log.wait("there", after=0, timeout=0.01)
        proxy.hold()
        waiting = asyncio.ensure_future(log.wait(RUN, after=0, timeout=10 * HANG_S))
        await asyncio.sleep(0)
        # Its first look is under way; and whoever opens the run dies before it can tell.
        await asyncio.to_thread(server.sql, OPEN_SILENTLY, RUN, is_root)
        proxy.flow()
        await waiting
        assert (await log.info(RUN)).run_id == RUN
        await log.aclose()


async def test_a_listener_that_the_server_ends_listens_again(
    postgres_server: PostgresServer,
) -> None:
    server = postgres_server
    log, other = [await asyncio.to_thread(open_log, server.url) for _ in range(2)]
    async with asyncio.timeout(HANG_S):
        await log.open(RUN, producer=None, workflow="nightly")
        following = asyncio.ensure_future(collect(subscribe(log, RUN)))
        listeners = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN %%'"
        for turn in range(3):
            while not (found := await asyncio.to_thread(server.sql, listeners)):
                await log.wait(RUN, after=1000, timeout=0.01)
            await asyncio.to_thread(server.sql, "SELECT pg_terminate_backend(%s)", *found[0])
            await other.append(RUN, notes(RUN, [turn]))
        await other.append(RUN, [ending(RUN)], final=True)
        assert kinds_of(await following) == ["note"] * 3 + ["run.completed"]
        await log.aclose()
        await other.aclose()


# (From Python 3.12 on, forking with threads is worth a warning, which is what is tested here.)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_connections_of_its_own(postgres_url: str) -> None:
    run_id = new_name()
    with start_run("w", run_id=run_id, url=postgres_url):
        for child in range(3):
            for n in range(50):
                publish({"n": 100 * child + n})
            pid = os.fork()
            if pid == 0:
                publish({"n": 1000 + child})
                os._exit(0 if flush(HANG_S) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    with connect(postgres_url) as streams:
        records = list(streams.subscribe(run_id, follow=False))
    numbers = [record.data["n"] for record in records if record.kind == "event"]
    ours = [100 * child + n for child in range(3) for n in range(50)]
    assert [n for n in numbers if n < 1000] == ours
    assert sorted(n for n in numbers if n >= 1000) == [1000, 1001, 1002]


def test_a_log_serves_any_thread_and_loop(postgres_url: str) -> None:
    run = new_name()
    log = open_log(postgres_url)

    def write(name: str) -> None:
        async def main() -> None:
            for n in range(20):
                await log.append(run, notes(run, [n]))

        asyncio.run(main())

    async def follow() -> int:
        await log.open(run, producer=None, workflow="nightly")
        with ThreadPoolExecutor(4) as pool:
            following = asyncio.ensure_future(collect(subscribe(log, run)))
            await asyncio.to_thread(lambda: list(pool.map(write, "abcd")))
            await log.append(run, [ending(run)], final=True)
            return len(await following)

    assert asyncio.run(asyncio.wait_for(follow(), HANG_S)) == 81
    asyncio.run(log.aclose())
