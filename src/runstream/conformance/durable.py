"""Durability: what the log has said to be stored is there, for everyone, from then on."""

from __future__ import annotations

from ..log import LeaseClaim
from ..record import Cursor
from .check import (
    WORKFLOW,
    OpenLog,
    collect,
    ending,
    expect_equal,
    needs_reopening,
    new_name,
    new_run,
    notes,
    numbers_of,
    read_all,
    subscribe,
)


async def check_an_append_is_visible_when_it_returns(open_log: OpenLog) -> None:
    """When an append returns, every process reads its records."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        for number in range(1, 21):
            writer, reader = (log, other) if number % 2 else (other, log)
            await writer.append(run, notes(run, [number]))
            for handle in (writer, reader):
                expect_equal((await handle.info(run)).last_seq, number, "the newest number")
                page = await handle.read(run, after=Cursor(None, number - 1))
                expect_equal(numbers_of(page.drafts), [number], "the newest record")


async def check_records_survive_reopening(open_log: OpenLog) -> None:
    """What was stored is there when the log is opened again, byte for byte."""
    needs_reopening(open_log)
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, range(300)))
        await log.append(run, notes(run, range(300, 310)))
        stored = await read_all(log, run)
    async with open_log() as log:
        expect_equal(await read_all(log, run), stored, "the records after reopening")
        appended = await log.append(run, notes(run, [310]))
        expect_equal(appended.first_seq, 311, "the number after reopening")


async def check_the_first_reader_after_reopening_gets_history(open_log: OpenLog) -> None:
    """A subscriber that comes when the log has been opened again gets everything from the start."""
    needs_reopening(open_log)
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, range(50)))
    async with open_log() as log:
        records = await collect(subscribe(log, run), 50)
        expect_equal(numbers_of(records), list(range(50)), "the history after reopening")
    async with open_log() as log:
        await log.append(run, [ending(run)], final=True)
        records = await collect(subscribe(log, run, after=records[-2].cursor))
        expect_equal([record.seq for record in records], [50, 51], "what follows the cursor")


async def check_numbers_survive_reopening_and_trimming(open_log: OpenLog) -> None:
    """A number is never used twice, even if all records were trimmed and the log was reopened."""
    needs_reopening(open_log)
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, range(10)))
        await log.trim(run, through=10)
    async with open_log() as log:
        info = await log.info(run)
        expect_equal((info.first_seq, info.last_seq), (11, 10), "first and newest number")
        appended = await log.append(run, notes(run, [10]))
        expect_equal(appended.first_seq, 11, "the number after trimming and reopening")


async def check_the_generation_survives_reopening(open_log: OpenLog) -> None:
    """A stream keeps its generation, so cursors stay valid when the log is opened again."""
    needs_reopening(open_log)
    async with open_log() as log:
        run = await new_run(log)
        generation = (await log.info(run)).generation
        await log.append(run, notes(run, range(3)))
    async with open_log() as log:
        expect_equal((await log.info(run)).generation, generation, "the generation")
        page = await log.read(run, after=Cursor(generation, 1))
        expect_equal(numbers_of(page.drafts), [1, 2], "what follows a cursor from before")


async def check_runs_survive_reopening(open_log: OpenLog) -> None:
    """What is known of a run, its family, status and lease, is known when the log is reopened."""
    needs_reopening(open_log)
    async with open_log() as log:
        root, owner = new_name(), new_name()
        claim = LeaseClaim(lease_s=60.0, grace_s=5.0)
        await log.open(root, producer=owner, workflow=WORKFLOW, claim=claim)
        child = await new_run(log, parent=root)
        await log.append(child, [ending(child, "run.failed")])
        before = [await log.info(run) for run in (root, child)]
    async with open_log() as log:
        after = [await log.info(run) for run in (root, child)]
        expect_equal(after, before, "what is known of the runs")
        expect_equal((before[0].status, before[1].status), ("running", "failed"), "the statuses")
