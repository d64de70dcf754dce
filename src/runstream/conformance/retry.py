"""Retry: a batch that is sent again is stored once, and a writer that was replaced stores nothing."""

from __future__ import annotations

import asyncio

from ..errors import InvalidInput, NumberGap, ProducerFenced
from ..log import Log, Producer
from .check import (
    WORKFLOW,
    OpenLog,
    expect,
    expect_equal,
    needs_reopening,
    new_name,
    new_run,
    notes,
    numbers_of,
    read_all,
    refusal,
)


async def check_the_same_batch_twice_is_stored_once(open_log: OpenLog) -> None:
    """A producer's last batch, sent again, is answered with its original numbers."""
    async with open_log() as log, open_log() as other:
        run, producer = await new_run(log), new_name()
        await log.append(run, notes(run, [1]), producer=Producer(producer, 0, 1))
        await other.append(run, notes(run, [100]))
        batch, sent = notes(run, [2, 3, 4]), Producer(producer, 0, 2)
        first = await log.append(run, batch, producer=sent)
        expect_equal((first.first_seq, first.last_seq, first.duplicates), (3, 5, 0), "the answer")
        await other.append(run, notes(run, [101]))
        for handle in (log, other, log):
            again = await handle.append(run, batch, producer=sent)
            answer = (again.first_seq, again.last_seq, again.duplicates)
            expect_equal(answer, (3, 5, 3), "the answer to the repeat")
        expect_equal(numbers_of(await read_all(log, run)), [1, 100, 2, 3, 4, 101], "what is stored")


async def check_an_older_batch_is_a_duplicate(open_log: OpenLog) -> None:
    """A batch from before the producer's last one is answered as a duplicate, and not stored."""
    async with open_log() as log:
        run, producer = await new_run(log), new_name()
        for number in (1, 3, 5):
            batch = notes(run, [number, number + 1])
            await log.append(run, batch, producer=Producer(producer, 0, number))
        for number, count in ((1, 2), (3, 2), (2, 3), (1, 6)):
            batch = notes(run, range(number, number + count))
            again = await log.append(run, batch, producer=Producer(producer, 0, number))
            expect_equal(again.duplicates, count, f"the duplicates of a repeat from {number}")
        expect_equal(numbers_of(await read_all(log, run)), [1, 2, 3, 4, 5, 6], "what is stored")


async def check_a_partial_overlap_is_refused(open_log: OpenLog) -> None:
    """A batch that is partly stored already is refused whole."""
    async with open_log() as log:
        run, producer = await new_run(log), new_name()
        await log.append(run, notes(run, [1, 2, 3]), producer=Producer(producer, 0, 1))
        for number, count in ((3, 2), (1, 4), (2, 3)):
            batch = notes(run, range(number, number + count))
            append = log.append(run, batch, producer=Producer(producer, 0, number))
            await refusal(append, NumberGap, f"{count} records from number {number} after 3")
        expect_equal(numbers_of(await read_all(log, run)), [1, 2, 3], "what is stored")


async def check_a_hole_in_the_numbers_is_refused(open_log: OpenLog) -> None:
    """A batch whose number leaves a hole is refused, so nothing can be missing unnoticed."""
    async with open_log() as log:
        run, producer = await new_run(log), new_name()
        for number in (2, 0, -1):
            append = log.append(run, notes(run, [1]), producer=Producer(producer, 0, number))
            await refusal(append, NumberGap, f"a first batch with number {number}")
        await log.append(run, notes(run, [1]), producer=Producer(producer, 0, 1))
        append = log.append(run, notes(run, [3]), producer=Producer(producer, 0, 3))
        await refusal(append, NumberGap, "number 3 after number 1")
        await log.append(run, notes(run, [2]), producer=Producer(producer, 0, 2))
        expect_equal(numbers_of(await read_all(log, run)), [1, 2], "what is stored")


async def check_two_producers_interleave(open_log: OpenLog) -> None:
    """Producers count for themselves: several write to one run at once, with retries, and lose nothing."""

    async def produce(log: Log, run: str, place: int) -> None:
        producer = new_name()
        for number in range(1, 41, 2):
            batch = notes(run, [1000 * place + number, 1000 * place + number + 1])
            for _ in range(1 + number % 3):
                await log.append(run, batch, producer=Producer(producer, 0, number))

    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        await asyncio.gather(*(produce((log, other)[place % 2], run, place) for place in range(4)))
        stored = numbers_of(await read_all(log, run))
        expect_equal(len(stored), 160, "the number of records stored")
        for place in range(4):
            own = [number % 1000 for number in stored if number // 1000 == place]
            expect_equal(own, list(range(1, 41)), "the records of one producer")


async def check_numbers_are_per_run(open_log: OpenLog) -> None:
    """A producer's numbers begin at 1 in every run that it writes to."""
    async with open_log() as log:
        producer = new_name()
        for _ in range(2):
            run = await new_run(log)
            await log.append(run, notes(run, [1]), producer=Producer(producer, 0, 1))
            expect_equal(numbers_of(await read_all(log, run)), [1], "what is stored")


async def check_retries_survive_reopening(open_log: OpenLog) -> None:
    """A batch that is sent again after the log was reopened is still stored once."""
    needs_reopening(open_log)
    run, producer = new_name(), new_name()
    batch = notes(run, [1, 2])
    async with open_log() as log:
        await log.open(run, producer=None, workflow=WORKFLOW)
        await log.append(run, batch, producer=Producer(producer, 0, 1))
    async with open_log() as log:
        again = await log.append(run, batch, producer=Producer(producer, 0, 1))
        answer = (again.first_seq, again.last_seq, again.duplicates)
        expect_equal(answer, (1, 2, 2), "the answer to the repeat after reopening")
        append = log.append(run, notes(run, [4]), producer=Producer(producer, 0, 4))
        await refusal(append, NumberGap, "a hole after reopening")
        await log.append(run, notes(run, [3]), producer=Producer(producer, 0, 3))
        expect_equal(numbers_of(await read_all(log, run)), [1, 2, 3], "what is stored")


async def check_a_stale_epoch_is_fenced(open_log: OpenLog) -> None:
    """Opening a run under a producer id fences every older writer under that id, and no other."""
    async with open_log() as log, open_log() as other:
        run, producer, bystander = await new_run(log), new_name(), new_name()
        old = await log.open(run, producer=producer)
        await log.append(run, notes(run, [1]), producer=Producer(producer, old.epoch, 1))
        await log.append(run, notes(run, [2]), producer=Producer(bystander, 0, 1))
        new = await other.open(run, producer=producer)
        expect(new.epoch > old.epoch, f"the epoch went from {old.epoch} to {new.epoch}")
        for number in (1, 2):
            zombie = log.append(
                run, notes(run, [9]), producer=Producer(producer, old.epoch, number)
            )
            await refusal(zombie, ProducerFenced, f"number {number} of a writer that was replaced")
        await other.append(run, notes(run, [3]), producer=Producer(producer, new.epoch, 2))
        await log.append(run, notes(run, [4]), producer=Producer(bystander, 0, 2))
        expect_equal(numbers_of(await read_all(log, run)), [1, 2, 3, 4], "what is stored")


async def check_an_epoch_must_be_opened(open_log: OpenLog) -> None:
    """An epoch that no `open` gave is refused: only epoch 0, of an id drawn at random, needs none."""
    async with open_log() as log:
        run, producer = await new_run(log), new_name()
        for epoch in (1, 7):
            append = log.append(run, notes(run, [1]), producer=Producer(producer, epoch, 1))
            await refusal(append, ProducerFenced, f"epoch {epoch} that was never opened")
        opened = await log.open(run, producer=producer)
        ahead = Producer(producer, opened.epoch + 1, 1)
        await refusal(
            log.append(run, notes(run, [1]), producer=ahead), ProducerFenced, "an epoch to come"
        )
        expect_equal(await read_all(log, run), [], "what is stored")


async def check_open_tells_the_last_number(open_log: OpenLog) -> None:
    """A producer that comes back under its id is told how many of its records are stored."""
    async with open_log() as log, open_log() as other:
        run, producer = await new_run(log), new_name()
        number = 0
        for count in (3, 2, 4):
            opened = await (log if count % 2 else other).open(run, producer=producer)
            expect_equal(opened.number, number, "the last number that `open` tells")
            expect(not opened.created, "`open` says that it created a run that was there")
            sent = Producer(producer, opened.epoch, number + 1)
            await log.append(run, notes(run, range(count)), producer=sent)
            number += count


async def check_a_refused_batch_stores_nothing(open_log: OpenLog) -> None:
    """A batch that is refused leaves no trace: neither records nor a number that counts."""
    async with open_log() as log:
        run, producer = await new_run(log), new_name()
        await refusal(
            log.append(run, [], producer=Producer(producer, 0, 1)), InvalidInput, "an empty append"
        )
        append = log.append(run, notes(new_name(), [1]), producer=Producer(producer, 0, 1))
        await refusal(append, InvalidInput, "a record of a run that is not there")
        appended = await log.append(run, notes(run, [1]), producer=Producer(producer, 0, 1))
        expect_equal((appended.first_seq, appended.duplicates), (1, 0), "the first good batch")
