"""A server that is killed, a network that loses replies or hangs: exactly once, in order, for everyone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from programs import report
from runstream import attach, connect, drain, process, publish, publisher_stats, start_run
from runstream.errors import RunNotFound
from runstream.filter import Filter
from runstream.log import Producer
from runstream.logs.http import HttpLog
from runstream.logs.http_transport import Times
from runstream.record import Cursor, Draft, Record, make_draft
from runstream.run import new_run_id
from runstream.start import Start
from server_process import ServerProcess, running_server
from services.proxy import proxy_to

# Records that each producer publishes between two waits for the disk: a few requests' worth.
ROW = 50
# A killed server of a loaded machine is back within a few seconds.
TEST_S_MAX = 120.0
SOAK_S_MAX = 1800.0


@pytest.fixture(autouse=True)
def closed_publishers() -> Iterator[None]:
    yield
    process.close_publishers()


def numbered(run_id: str, numbers: range) -> list[Draft]:
    return [make_draft(run_id, "note", {"n": number}) for number in numbers]


async def stored_numbers(url: str, run_id: str) -> list[int]:
    """What a run holds, told by the server itself."""
    async with connect(url) as streams:
        records = [r async for r in streams.subscribe(run_id, kinds="note", follow=False)]
    return [record.data["n"] for record in records if record.kind == "note"]


async def test_a_batch_whose_reply_was_lost_is_stored_once(shared_server: ServerProcess) -> None:
    run_id = new_run_id()
    async with proxy_to(shared_server.port) as proxy:
        log = HttpLog(f"http://127.0.0.1:{proxy.port}")
        await log.open(run_id, producer=None, workflow="nightly")
        for place in range(5):
            batch = numbered(run_id, range(3 * place, 3 * place + 3))
            proxy.lose_reply_to(f"POST /v1/runs/{run_id}/events".encode())
            stored = await log.append(run_id, batch, producer=Producer("p", 0, 3 * place + 1))
            assert proxy.lost.is_set()
            assert (stored.first_seq, stored.last_seq) == (3 * place + 1, 3 * place + 3)
            assert stored.duplicates == 0
        await log.aclose()
    assert await stored_numbers(shared_server.url, run_id) == list(range(15))


async def test_publishing_through_a_network_that_loses_every_other_reply(
    shared_server: ServerProcess,
) -> None:
    run_id = new_run_id()
    lost = 0
    async with proxy_to(shared_server.port) as proxy:
        async with start_run("nightly", run_id=run_id, url=f"http://127.0.0.1:{proxy.port}"):
            for place in range(10):
                proxy.lose_reply_to(f"POST /v1/runs/{run_id}/events".encode())
                publish({"n": place}, kind="note")
                assert await drain()
                lost += proxy.lost.is_set()
        process.close_publishers()
    assert lost == 10
    assert await stored_numbers(shared_server.url, run_id) == list(range(10))


async def test_an_opening_whose_reply_was_lost_begins_the_run_all_the_same(
    shared_server: ServerProcess,
) -> None:
    run_id = new_run_id()
    async with proxy_to(shared_server.port) as proxy:
        proxy.lose_reply_to(f"PUT /v1/runs/{run_id}".encode())
        async with start_run("nightly", run_id=run_id, url=f"http://127.0.0.1:{proxy.port}") as run:
            assert proxy.lost.is_set()
            assert not run.resumed
        process.close_publishers()
    async with connect(shared_server.url) as streams:
        kinds = [record.kind async for record in streams.subscribe(run_id)]
    assert kinds == ["run.started", "run.completed"]


async def test_a_child_whose_opening_got_no_reply_is_new_until_it_has_a_record(
    shared_server: ServerProcess,
) -> None:
    parent, child = new_run_id(), new_run_id()
    async with proxy_to(shared_server.port) as proxy:
        log = HttpLog(f"http://127.0.0.1:{proxy.port}")
        await log.open(parent, producer=None, workflow="nightly")
        await log.append(parent, numbered(parent, range(10)))
        for is_new in (True, False):
            proxy.lose_reply_to(f"PUT /v1/runs/{child}".encode())
            opened = await log.open(child, producer=None, workflow="part", parent_run_id=parent)
            assert proxy.lost.is_set()
            assert opened.created is is_new
            await log.append(child, numbered(child, range(1)))
        await log.aclose()


async def test_requests_one_after_the_other_share_a_connection(
    shared_server: ServerProcess,
) -> None:
    run_id = new_run_id()
    async with proxy_to(shared_server.port) as proxy:
        log = HttpLog(f"http://127.0.0.1:{proxy.port}")
        await log.open(run_id, producer=None, workflow="nightly")
        for number in range(20):
            await log.append(run_id, numbered(run_id, range(number, number + 1)))
            await log.read(run_id, after=Cursor(None, number))
            with pytest.raises(RunNotFound):
                await log.info("nobody")
        assert proxy.accepted == 1
        await log.aclose()


async def test_a_removal_that_got_no_reply_is_done_once_and_a_second_one_is_told(
    shared_server: ServerProcess,
) -> None:
    run_id = new_run_id()
    async with proxy_to(shared_server.port) as proxy:
        log = HttpLog(f"http://127.0.0.1:{proxy.port}")
        await log.open(run_id, producer=None, workflow="nightly")
        await log.append(run_id, [make_draft(run_id, "run.completed", {})], final=True)
        proxy.lose_reply_to(f"DELETE /v1/runs/{run_id}".encode())
        await log.remove(run_id)
        assert proxy.lost.is_set()
        with pytest.raises(RunNotFound):
            await log.remove(run_id)
        await log.aclose()


async def test_a_network_that_hangs_is_noticed_by_its_silence(shared_server: ServerProcess) -> None:
    run_id = new_run_id()
    direct = HttpLog(shared_server.url)
    await direct.open(run_id, producer=None, workflow="nightly")
    await direct.append(run_id, numbered(run_id, range(1)))
    async with proxy_to(shared_server.port) as proxy:
        times = Times(silence_s=0.5, reconnect_s_max=0.1)
        log = HttpLog(f"http://127.0.0.1:{proxy.port}", times=times)
        pages = log.follow(run_id, start=Start(), filter=Filter(), follow=True)
        seen = [record.data["n"] for record in await anext(pages)]
        proxy.hold()
        await direct.append(run_id, numbered(run_id, range(1, 3)))
        following = asyncio.ensure_future(anext(pages))
        accepted = proxy.accepted
        async with asyncio.timeout(TEST_S_MAX):
            while proxy.accepted == accepted:
                await asyncio.sleep(0.01)
        proxy.flow()
        while len(seen) < 3:
            seen += [record.data["n"] for record in await following]
            following = asyncio.ensure_future(anext(pages))
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await pages.aclose()
        await log.aclose()
    await direct.aclose()
    assert seen == [0, 1, 2]


@pytest.mark.parametrize("time_us", [1, 4_102_444_800_000_000, 253_402_300_799_999_999])
async def test_clocks_that_disagree_change_nothing_but_the_time_that_is_told(
    shared_server: ServerProcess, time_us: int
) -> None:
    run_id = new_run_id()
    log = HttpLog(shared_server.url)
    await log.open(run_id, producer=None, workflow="nightly")
    late, now = numbered(run_id, range(2))
    await log.append(run_id, [Draft(time_us, run_id, "note", late.data), now])
    page = await log.read(run_id, after=Cursor(None, 0))
    assert [draft.time for draft in page.drafts] == [time_us, now.time]
    assert await stored_numbers(shared_server.url, run_id) == [0, 1]
    await log.aclose()


async def produce(url: str, run_id: str, name: str, stop: asyncio.Event) -> int:
    """Publish into the run until `stop`; how many records that were."""
    count = 0
    async with attach(run_id, step=name, url=url, overflow="block"):
        while not stop.is_set():
            for _ in range(ROW):
                count += 1
                publish({"n": count}, kind="note")
            assert await drain()
            await asyncio.sleep(0)
    return count


async def follow(url: str, run_id: str, seen: list[Record], *, steps: str | None = None) -> None:
    async with connect(url) as streams:
        async for record in streams.subscribe(run_id, steps=steps):
            seen.append(record)  # noqa: PERF401 - the test looks at what was seen until now


async def kill_servers(folder: Path, kills: int, seed: int, seconds_max: float) -> None:
    """Kill and restart the server at random points, while two producers and three followers go on."""
    report(f"seed {seed}")
    chance = random.Random(seed)
    before = publisher_stats()
    stop = asyncio.Event()
    everything: list[Record] = []
    one_step: list[Record] = []
    with running_server(folder, f"sqlite:{folder}/events.db") as server:
        async with asyncio.timeout(seconds_max):
            async with start_run("nightly", url=server.url, lease=300.0) as run:
                assert await drain()
                followers = [
                    asyncio.ensure_future(follow(server.url, run.run_id, everything)),
                    asyncio.ensure_future(follow(server.url, run.run_id, one_step, steps="b")),
                ]
                producers = [
                    asyncio.ensure_future(produce(server.url, run.run_id, name, stop))
                    for name in ("a", "b")
                ]
                for _ in range(kills):
                    count = len(everything)
                    while len(everything) == count:  # it is under load again
                        assert not any(task.done() for task in (*followers, *producers))
                        await asyncio.sleep(0.005)
                    await asyncio.sleep(chance.random() * 0.2)
                    await asyncio.to_thread(server.restart)
                stop.set()
                counts = await asyncio.gather(*producers)
            await asyncio.gather(*followers)
        process.close_publishers()
        assert [record.seq for record in everything] == list(range(1, len(everything) + 1))
        notes = [record for record in everything if record.kind == "note"]
        for name, count in zip(("a", "b"), counts, strict=True):
            got = [record.data["n"] for record in notes if record.step == name]
            assert got == list(range(1, count + 1))
        wanted = [r.seq for r in everything if r.step == "b" or r.is_terminal]
        assert [record.seq for record in one_step] == wanted
        assert everything[-1].kind == "run.completed"
        assert await stored_numbers(server.url, run.run_id) == [
            record.data["n"] for record in notes
        ]
    after = publisher_stats()
    assert (after.dropped, after.failed, after.queued) == (before.dropped, before.failed, 0)
    report(f"{kills} kills, {len(everything)} records")


@pytest.mark.parametrize("request_records", [1000, 5])
@pytest.mark.allow_blocking  # it starts the server
async def test_nothing_is_lost_or_doubled_when_the_server_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_records: int
) -> None:
    """Of five records there are ten requests in a row, several of them under way."""
    monkeypatch.setenv("RUNSTREAM_PUBLISH_BATCH_SIZE", str(request_records))
    await kill_servers(tmp_path, kills=3, seed=1, seconds_max=TEST_S_MAX)


@pytest.mark.parametrize("request_records", [1000, 5])
@pytest.mark.soak
@pytest.mark.allow_blocking
async def test_nothing_is_lost_or_doubled_in_a_hundred_kills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request_records: int
) -> None:
    monkeypatch.setenv("RUNSTREAM_PUBLISH_BATCH_SIZE", str(request_records))
    await kill_servers(tmp_path, kills=100, seed=random.randrange(2**32), seconds_max=SOAK_S_MAX)
