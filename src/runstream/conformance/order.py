"""Order: one dense row of numbers in each stream, whoever writes and whoever reads."""

from __future__ import annotations

import asyncio

from ..errors import InvalidInput, RunNotFound
from ..log import Log
from ..record import Cursor
from .check import (
    TICK_S,
    OpenLog,
    collect,
    ending,
    expect,
    expect_equal,
    new_name,
    new_run,
    notes,
    numbers_of,
    read_all,
    refusal,
    seqs_of,
    subscribe,
)


async def check_numbers_start_at_one(open_log: OpenLog) -> None:
    """The first record of a stream has number 1, the next one 2."""
    async with open_log() as log:
        run = await new_run(log)
        expect_equal((await log.info(run)).last_seq, 0, "the newest number of an empty stream")
        first = await log.append(run, notes(run, [1]))
        second = await log.append(run, notes(run, [2]))
        expect_equal((first.first_seq, first.last_seq), (1, 1), "the first append's numbers")
        expect_equal((second.first_seq, second.last_seq), (2, 2), "the second append's numbers")


async def check_a_batch_is_contiguous(open_log: OpenLog) -> None:
    """The records of one append have consecutive numbers in the order that they were given."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, range(3)))
        appended = await log.append(run, notes(run, range(3, 1000)))
        expect_equal((appended.first_seq, appended.last_seq), (4, 1000), "the batch's numbers")
        expect_equal(numbers_of(await read_all(log, run)), list(range(1000)), "what was stored")


async def check_concurrent_writers_leave_no_holes(open_log: OpenLog) -> None:
    """Writers in several processes get dense numbers, none twice, and each keeps its own order."""
    writers, appends = 8, 15

    async def write(log: Log, run: str, writer: int) -> list[int]:
        seqs: list[int] = []
        for turn in range(appends):
            batch = notes(run, [writer * 1000 + turn * 3 + part for part in range(turn % 3 + 1)])
            appended = await log.append(run, batch)
            seqs += range(appended.first_seq, appended.last_seq + 1)
        return seqs

    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        answers = await asyncio.gather(
            *(write((log, other)[writer % 2], run, writer) for writer in range(writers))
        )
        seqs = sorted(seq for answer in answers for seq in answer)
        expect_equal(seqs, list(range(1, len(seqs) + 1)), "the numbers that the writers got")
        stored = numbers_of(await read_all(log, run))
        expect_equal(len(stored), len(seqs), "the number of records stored")
        for writer in range(writers):
            own = [number for number in stored if number // 1000 == writer]
            expect_equal(own, sorted(own), "the order of one writer's records")
            expect(
                [stored[seq - 1] for seq in answers[writer]] == own,
                "a record is not at the number that its writer was told",
            )


async def check_streams_do_not_mix(open_log: OpenLog) -> None:
    """Each run has a stream of its own: its own records with its own numbers."""
    async with open_log() as log:
        runs = [await new_run(log) for _ in range(3)]
        for turn in range(5):
            for place, run in enumerate(runs):
                appended = await log.append(run, notes(run, [10 * place + turn]))
                expect_equal(appended.first_seq, turn + 1, "the number in the run's own stream")
        for place, run in enumerate(runs):
            wanted = [10 * place + turn for turn in range(5)]
            expect_equal(numbers_of(await read_all(log, run)), wanted, "the run's own records")


async def check_a_reader_during_writes_never_skips(open_log: OpenLog) -> None:
    """Whoever reads while others write sees every record once, in order."""
    total = 240

    async def write(log: Log, run: str, writer: int) -> None:
        for start in range(writer * total, (writer + 1) * total, 3):
            await log.append(run, notes(run, range(start, start + 3)))

    async def read(log: Log, run: str) -> list[int]:
        seen: list[int] = []
        while len(seen) < 2 * total:
            page = await log.read(run, after=Cursor(None, len(seen)), limit=50)
            expect_equal(page.first_seq, len(seen) + 1, "the number of a page's first record")
            seen += numbers_of(page.drafts)
            if not page.drafts:
                await log.wait(run, after=len(seen), timeout=TICK_S)
        return seen

    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        *seen, _, _ = await asyncio.gather(
            read(log, run), read(other, run), write(log, run, 0), write(other, run, 1)
        )
        stored = numbers_of(await read_all(other, run))
        for reader in seen:
            expect_equal(reader, stored, "what a reader saw while others wrote")


async def check_every_reader_sees_the_same_order(open_log: OpenLog) -> None:
    """A record keeps its number: pages of any size, on any handle, show the same stream."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        for start in range(0, 60, 3):
            writer = log if start % 2 else other
            await writer.append(run, notes(run, range(start, start + 3)))
        for handle in (log, other):
            for limit in (1, 7, 1000):
                stored = numbers_of(await read_all(handle, run, limit=limit))
                expect_equal(stored, list(range(60)), f"the stream in pages of {limit}")


async def check_children_write_into_the_roots_stream(open_log: OpenLog) -> None:
    """The records of child runs, and of their children, are in their root's stream."""
    async with open_log() as log:
        root = await new_run(log)
        child = await new_run(log, parent=root)
        grandchild = await new_run(log, parent=child)
        for number, run in enumerate((root, child, grandchild, root), 1):
            appended = await log.append(run, notes(run, [number]))
            expect_equal(appended.first_seq, number, "the number in the root's stream")
        for run in (root, child, grandchild):
            expect_equal(numbers_of(await read_all(log, run)), [1, 2, 3, 4], "the stream")
        info = await log.info(grandchild)
        expect_equal(info.root_run_id, root, "the root of a child's child")
        expect_equal(info.parent_run_id, child, "the parent of a child's child")
        expect_equal(info.last_seq, 4, "the newest number, asked for a child")


async def check_a_child_is_a_filter_on_its_root(open_log: OpenLog) -> None:
    """Who follows a child gets its records alone, with the root's numbers, until the child's end."""
    async with open_log() as log:
        root = await new_run(log)
        child = await new_run(log, parent=root)
        await log.append(root, [*notes(root, [1]), *notes(child, [2]), *notes(root, [3])])
        await log.append(child, [*notes(child, [4]), ending(child), *notes(root, [6])])
        records = await collect(subscribe(log, child))
        expect_equal(seqs_of(records), [2, 4, 5], "the numbers of a child's records")
        expect_equal({record.run_id for record in records}, {child}, "whose records they are")
        expect_equal(
            (records[0].parent_run_id, records[0].root_run_id), (root, root), "the child's family"
        )


async def check_records_of_other_streams_are_refused(open_log: OpenLog) -> None:
    """A record of a run that is not in the stream is refused, with the whole append."""
    async with open_log() as log:
        run, stranger = await new_run(log), await new_run(log)
        mixed = [*notes(run, [1]), *notes(stranger, [2])]
        await refusal(log.append(run, mixed), InvalidInput, "a record of another root's run")
        unknown = new_name()
        mixed = [*notes(run, [1]), *notes(unknown, [2])]
        await refusal(log.append(run, mixed), InvalidInput, "a record of a run that is not there")
        ended = [ending(stranger, "run.failed")]
        await refusal(log.append(run, ended), InvalidInput, "the end of another root's run")
        expect_equal((await log.info(run)).last_seq, 0, "the newest number after the refusals")
        expect_equal((await log.info(stranger)).status, "running", "the other run's status")
        await refusal(
            log.append(unknown, notes(unknown, [1])), RunNotFound, "a run that is not there"
        )
