"""What JetStream stores of a stream suffices for a process that comes anew, whatever was dropped of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from runstream.conformance.check import ending, new_name, notes, numbers_of, read_all
from runstream.errors import RunNotFound
from runstream.log import Producer
from runstream.logs import open_log
from runstream.logs.nats import NatsLog
from services.nats import NatsServer, running_nats


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[NatsLog]:
    log = await asyncio.to_thread(open_log, url)
    assert isinstance(log, NatsLog)
    try:
        yield log
    finally:
        await log.aclose()


async def test_a_stream_that_was_trimmed_to_nothing_still_knows_its_producers(
    nats_url: str,
) -> None:
    run = new_name()
    async with opened(nats_url) as log:
        await log.open(run, producer=None, workflow="w")
        for number in (1, 2, 3):
            await log.append(run, notes(run, [number]), producer=Producer("p", 0, number))
        await log.trim(run, through=3)
        await log.append(run, notes(run, [4]), producer=Producer("other", 0, 1))
        # What is dropped now is all that came before the newest message.
        await log.trim(run, through=3)
    async with opened(nats_url) as log:
        again = await log.append(run, notes(run, [3]), producer=Producer("p", 0, 3))
        assert again.duplicates == 1
        assert (await log.info(run)).last_seq == 4


async def test_the_first_run_of_all_survives_when_it_is_trimmed_before_its_first_record(
    nats_server: NatsServer,
) -> None:
    async with opened(nats_server.url) as log:
        await log.open("r", producer=None, workflow="w")
        await log.trim("r", through=5)
        await log.append("r", notes("r", [1]))
    async with opened(nats_server.url) as log:
        assert numbers_of(await read_all(log, "r")) == [1]


@pytest.fixture
def small_nats(tmp_path: Path) -> Generator[NatsServer]:
    """It takes small messages only."""
    options = tmp_path / "nats.conf"
    options.write_text("max_payload: 65536\n", encoding="utf-8")
    with running_nats(tmp_path, "-c", str(options)) as server:
        yield server


async def test_a_stream_of_very_many_producers_and_children_outgrows_one_message(
    small_nats: NatsServer,
) -> None:
    names = [f"{number:0>100}" for number in range(600)]
    async with opened(small_nats.url) as log:
        await log.open("r", producer=None, workflow="w")
        for name in names:
            child = log.open(name, producer=None, workflow="w", parent_run_id="r")
            batch = notes("r", [int(name)])
            await asyncio.gather(child, log.append("r", batch, producer=Producer(name, 0, 1)))
        await log.trim("r", through=5)
    async with opened(small_nats.url) as log:
        for name in names[::50]:
            batch = notes("r", [int(name)])
            again = await log.append("r", batch, producer=Producer(name, 0, 1))
            assert again.duplicates == 1
            assert (await log.info(name)).root_run_id == "r"
        assert (await log.info("r")).last_seq == len(names)
        blob = [*await asyncio.to_thread(notes, "r", range(4000)), ending("r")]
        await log.append("r", blob, final=True)
        await log.trim("r", through=len(names))
    async with opened(small_nats.url) as log:
        page = await read_all(log, "r", after=len(names))
        assert numbers_of([draft for draft in page if draft.kind == "note"]) == list(range(4000))
        assert page[-1].kind == "run.completed"


async def test_a_run_that_another_process_removed_is_begun_again_for_everybody(
    nats_url: str,
) -> None:
    run, workflow = new_name(), new_name()
    async with opened(nats_url) as log, opened(nats_url) as other:
        for number in (1, 2):
            await log.open(run, producer=None, workflow=workflow)
            await log.append(run, [*notes(run, [number]), ending(run)], final=True)
            for one in (log, other):
                assert [info.run_id for info in await one.list(workflow=workflow)] == [run]
                assert await one.list(workflow=workflow, status="completed")
            await other.remove(run)
        await log.open(run, producer=None, workflow=workflow)
        for one in (log, other):
            listed = await one.list(workflow=workflow, status="running")
            assert [info.run_id for info in listed] == [run]
            assert (await one.info(run)).last_seq == 0


async def test_a_child_may_come_back_in_another_tree(nats_url: str) -> None:
    first, second, child = new_name(), new_name(), new_name()
    async with opened(nats_url) as log, opened(nats_url) as other:
        for root in (first, second):
            await log.open(root, producer=None, workflow="w")
        await log.open(child, producer=None, workflow="w", parent_run_id=first)
        await log.append(first, [ending(first)], final=True)
        await other.remove(first)
        with pytest.raises(RunNotFound):
            await log.append(child, notes(child, [1]))
        again = await log.open(child, producer=None, workflow="w", parent_run_id=second)
        assert again.info.root_run_id == second
        await other.append(child, notes(child, [1]))
        assert numbers_of(await read_all(log, second)) == [1]


async def test_a_removal_that_was_cut_off_is_finished_by_the_next_one(nats_url: str) -> None:
    run, child = new_name(), new_name()
    async with opened(nats_url) as log, opened(nats_url) as other:
        await log.open(run, producer=None, workflow="w")
        await log.open(child, producer=None, workflow="w", parent_run_id=run)
        await log.append(run, [*notes(run, [1]), ending(run)], final=True)
        removing = asyncio.ensure_future(log.remove(run))
        while True:
            try:
                await other.info(child)
            except RunNotFound:
                break
        removing.cancel()
        await asyncio.gather(removing, return_exceptions=True)
        with contextlib.suppress(RunNotFound):  # the first one was faster than its end
            await other.remove(run)
        opened_again = await other.open(run, producer=None, workflow="w")
        assert opened_again.created


async def test_a_run_whose_opener_died_half_way_is_passed_over_until_it_is_opened(
    nats_server: NatsServer,
) -> None:
    async with opened(nats_server.url) as log:
        await log.open("other", producer=None, workflow="w")
        # It was noted, but its stream was not begun.
        born = {"run_id": "half", "root": "half", "workflow": "w"}
        await asyncio.to_thread(nats_server.publish, "RUNSTREAM_RUNS.born.half", born)
        assert [info.run_id for info in await log.list()] == ["other"]
        with pytest.raises(RunNotFound):
            await log.info("half")
        assert (await log.open("half", producer=None, workflow="w")).created
        assert {info.run_id for info in await log.list()} == {"other", "half"}


@pytest.fixture
def open_nats(tmp_path: Path) -> Generator[NatsServer]:
    """It writes down what it is asked."""
    with running_nats(tmp_path, "-V") as server:
        yield server


async def test_one_server_is_not_asked_in_the_way_that_can_crash_it_while_streams_are_made(
    open_nats: NatsServer,
) -> None:
    """nats-server 2.9.10 does so in a moment that no test can wait for."""
    async with opened(open_nats.url) as log, opened(open_nats.url) as other:
        for one in (log, other):
            await one.open("r", producer="p", workflow="w")
            await one.open("child", producer=None, workflow="w", parent_run_id="r")
            await one.append("r", [*notes("r", [1]), ending("r")], final=True)
            assert numbers_of((await read_all(other, "r"))[:1]) == [1]
            assert await log.list()
            await one.remove("r")
            await asyncio.to_thread(open_nats.drop_streams)
            with pytest.raises(RunNotFound):
                await other.info("r")
    asked = open_nats.output
    assert "$JS.API.DIRECT.GET." in asked
    assert "$JS.API.STREAM.MSG.GET." not in asked
