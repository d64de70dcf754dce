"""Several processes on one engine, whichever it is: writers side by side, zombies, crashes, what ages out,
and how many connections they take.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from threading import Event

import pytest

from opened_log import opened, wait_for_removal
from programs import run_program, wait_until
from runstream import connect, flush, process, publish, start_run
from runstream.conformance.check import collect, ending, new_name, notes, read_all, subscribe
from runstream.errors import LeaseLost, ProducerFenced, RunNotFound
from runstream.log import LeaseClaim, Log, Producer
from services.log_engine import LogEngine
from services.proxy import proxy_to

DEADLINE_S = 120.0
TICK_S = 0.05

# Appends batch after batch, each numbered from its own 0, as soon as it hears a line.
WRITER = """
import asyncio, sys
from runstream.log import Producer
from runstream.logs import open_log
from runstream.record import make_draft

async def write(url, run, who, count):
    log = await asyncio.to_thread(open_log, url)
    opened = await log.open(run, producer=who)
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for start in range(0, count, 4):
        batch = [make_draft(run, "note", {"who": who, "n": n}) for n in range(start, start + 4)]
        await log.append(run, batch, producer=Producer(who, opened.epoch, start + 1))
    await log.aclose()

asyncio.run(write(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
"""


@pytest.mark.allow_blocking  # for the children's output
async def test_two_processes_append_to_one_run_at_once(engine_url: str) -> None:
    run, count = new_name(), 400
    async with opened(engine_url) as log:
        await log.open(run, producer=None, workflow="w")
        following = asyncio.ensure_future(collect(subscribe(log, run)))
        with (
            run_program(WRITER, engine_url, run, "a", count) as one,
            run_program(WRITER, engine_url, run, "b", count) as two,
        ):
            for program in (one, two):
                program.wait_line("ready")
            for program in (one, two):
                program.tell("go")
            for program in (one, two):
                await asyncio.to_thread(program.finish)
        await log.append(run, [ending(run)], final=True)
        seen = (await following)[:-1]
    assert [record.seq for record in seen] == list(range(1, 2 * count + 1))
    for who in ("a", "b"):
        numbers = [record.data["n"] for record in seen if record.data["who"] == who]
        assert numbers == list(range(count))
    # Each batch is consecutive, whoever wrote in between.
    starts = [record.seq for record in seen if record.data["n"] % 4 == 0]
    ends = [record.seq for record in seen if record.data["n"] % 4 == 3]
    assert [end - start for start, end in zip(starts, ends, strict=True)] == [3] * (2 * count // 4)


async def test_a_zombie_cannot_write_after_its_lease_was_taken(engine_url: str) -> None:
    async with opened(engine_url) as log, opened(engine_url) as other:
        run, claim = new_name(), LeaseClaim(60.0, 60.0)
        first = await log.open(run, producer="owner", workflow="w", claim=claim)
        assert first.info.lease is not None
        await log.append(run, notes(run, [1]), producer=Producer("owner", first.epoch, 1))
        await other.expire(run, lease=(await other.info(run)).lease or first.info.lease)
        heir = await other.open(run, producer="heir", claim=claim)
        with pytest.raises(ProducerFenced):
            await log.append(run, notes(run, [2]), producer=Producer("owner", first.epoch, 2))
        with pytest.raises(LeaseLost):
            await log.renew(run, owner="owner", epoch=first.epoch)
        await other.append(run, notes(run, [2]), producer=Producer("heir", heir.epoch, 1))
        assert [draft.kind for draft in await read_all(log, run)] == ["note", "run.stalled", "note"]


async def test_a_run_lost_with_its_process_is_ended_once(engine_url: str) -> None:
    run, claim = new_name(), LeaseClaim(60.0)
    async with opened(engine_url) as log, opened(engine_url) as other:
        lease = (await log.open(run, producer="p", workflow="w", claim=claim)).info.lease
        assert lease is not None
        both = await asyncio.gather(*(one.expire(run, lease=lease) for one in (log, other) * 5))
        assert {info.status for info in both} == {"lost"}
        assert [draft.kind for draft in await read_all(log, run)] == ["run.lost"]


@pytest.mark.allow_blocking  # it starts and flushes a run in plain code
def test_what_is_published_while_the_engine_is_down_arrives_once(engine: LogEngine) -> None:
    try:
        with start_run("w", url=engine.url) as run:
            for number in range(600):
                publish({"n": number})
                if number == 200:
                    engine.kill()
                if number == 400:
                    engine.start()
            assert flush(DEADLINE_S)
        with connect(engine.url) as streams:
            records = list(streams.subscribe(run.run_id))
        assert [r.data["n"] for r in records if r.kind == "event"] == list(range(600))
        assert not [r for r in records if r.kind.startswith("stream.")]
    finally:
        process.close_publishers()


async def test_all_users_of_a_url_in_a_process_share_its_connections_until_it_lets_them_go(
    engine: LogEngine,
) -> None:
    async with AsyncExitStack() as stack:
        run = await stack.enter_async_context(start_run("w", url=engine.url))
        streams = [await stack.enter_async_context(connect(engine.url)) for _ in range(5)]
        assert len({id(one.log) for one in streams}) == 1
        publish({"n": 1})
        assert (await anext(streams[0].subscribe(run.run_id))).kind == "run.started"
        assert 0 < await asyncio.to_thread(engine.connections) <= engine.connections_max
    await asyncio.to_thread(process.close_publishers)
    left = "a process that has closed its publishers lets its connections go"
    # (The engine notices that by itself.)
    await asyncio.to_thread(wait_until, lambda: engine.connections() == 0, left)


@pytest.mark.allow_blocking  # an event loop that hears of it last
@pytest.mark.parametrize("is_root", [True, False], ids=["root", "child"])
async def test_everybody_who_waits_for_a_run_in_a_process_hears_that_it_is_opened(
    engine: LogEngine, is_root: bool
) -> None:
    asked, heard = Event(), Event()

    async def wait(log: Log, timeout: float = 10 * DEADLINE_S) -> None:
        await log.wait("r", after=0, timeout=timeout)

    async def wait_and_hear_of_it_last(log: Log) -> None:
        waiting = asyncio.ensure_future(wait(log))
        await asyncio.sleep(0)
        asked.set()
        heard.wait(DEADLINE_S)
        await waiting

    async with (
        asyncio.timeout(DEADLINE_S),
        proxy_to(engine.port) as proxy,
        opened(engine.url_at(proxy.port)) as log,
        opened(engine.url) as other,
    ):
        await other.open("there", producer=None, workflow="w")
        began = 0.0
        while time.monotonic() - began < TICK_S:  # until it lasts, as the root is known
            began = time.monotonic()
            await log.wait("there", after=0, timeout=TICK_S)
        proxy.hold()
        last = asyncio.create_task(asyncio.to_thread(asyncio.run, wait_and_hear_of_it_last(log)))
        await asyncio.to_thread(asked.wait)
        parent = None if is_root else "there"
        await other.open("r", producer=None, workflow="w", parent_run_id=parent)
        proxy.flow()
        # (Where the log has heard of it by now, this is already a wait for the run's records.)
        await asyncio.to_thread(asyncio.run, wait(log, 1.0))
        heard.set()
        await last


async def test_finished_runs_age_out_with_their_children_once_for_all_processes(
    engine: LogEngine,
) -> None:
    url = f"{engine.url}?retention=1s"
    async with opened(url) as log, opened(url) as other:
        await log.open("kept", producer=None, workflow="w")
        await log.open("old", producer="p", workflow="w")
        await other.open("child", producer=None, workflow="w", parent_run_id="old")
        subscription = subscribe(other, "old")
        await log.append("old", notes("old", [1]))
        await collect(subscription, 1)
        await log.append("old", [ending("old")], final=True)
        await wait_for_removal(log, "old")
        for one in (log, other):
            assert [info.run_id for info in await one.list()] == ["kept"]
            with pytest.raises(RunNotFound):
                await one.info("child")
        assert [record.kind for record in await collect(subscription)] == ["stream.gap"]
        # (It may be gone for all a moment before its last trace is.)
        nothing = "nothing is left of them"
        for gone in (lambda: engine.stored_of("old") == 0, lambda: engine.stored_of("child") == 0):
            await asyncio.to_thread(wait_until, gone, nothing)
        assert (await log.open("old", producer=None, workflow="w")).info.last_seq == 0
        await other.append("kept", notes("kept", [1]))
