"""Resume: any position continues exactly there, and what cannot be had any more is told."""

from __future__ import annotations

import asyncio

from ..errors import GenerationChanged, InvalidPosition, PositionGone
from ..log import READ_LIMIT_MAX
from ..record import GAP, Cursor, Record, make_draft
from .check import (
    OpenLog,
    collect,
    ending,
    expect,
    expect_equal,
    let_it_wait,
    new_run,
    notes,
    numbers_of,
    read_all,
    refusal,
    seqs_of,
    subscribe,
)


async def check_from_seq_is_inclusive(open_log: OpenLog) -> None:
    """`from_seq=N` begins with record N; 0 means 1."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, range(1, 6)))
        for from_seq, wanted in ((3, [3, 4, 5]), (5, [5]), (1, [1, 2, 3, 4, 5])):
            got = await collect(subscribe(log, run, from_seq=from_seq, follow=False))
            expect_equal(seqs_of(got), wanted, f"the records of from_seq={from_seq}")
        got = await collect(subscribe(log, run, from_seq=0, follow=False))
        expect_equal(seqs_of(got), [1, 2, 3, 4, 5], "the records of from_seq=0")


async def check_a_cursor_is_exclusive(open_log: OpenLog) -> None:
    """`after=cursor` begins behind that record: reconnecting anywhere repeats and loses nothing."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        await log.append(run, notes(run, range(1, 12)))
        await log.append(run, [ending(run)], final=True)
        whole = await collect(subscribe(log, run))
        expect_equal(seqs_of(whole), list(range(1, 13)), "the whole stream")
        for place, record in enumerate(whole, 1):
            handle = (log, other)[place % 2]
            rest = await collect(subscribe(handle, run, after=record.cursor))
            expect_equal(seqs_of(rest), seqs_of(whole[place:]), f"what follows {record.cursor}")


async def check_one_past_the_newest_waits(open_log: OpenLog) -> None:
    """`from_seq` one past the newest record waits for the next one."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, [1, 2]))
        async with subscribe(log, run, from_seq=3) as subscription:
            waiting = asyncio.ensure_future(collect(subscription, 1))
            await let_it_wait(waiting)
            expect(not waiting.done(), "a record came before there was one")
            await log.append(run, notes(run, [3]))
            expect_equal(seqs_of(await waiting), [3], "the record that was waited for")


async def check_a_position_past_the_end_is_refused(open_log: OpenLog) -> None:
    """A position more than one past the newest record is refused, not silently empty."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, [1, 2]))
        read = log.read(run, after=Cursor(None, 3))
        await refusal(read, InvalidPosition, "reading behind a record that is not there")
        for follow in (True, False):
            got = collect(subscribe(log, run, from_seq=4, follow=follow))
            await refusal(got, InvalidPosition, f"from_seq beyond the end (follow={follow})")


async def check_reading_past_the_newest_is_empty(open_log: OpenLog) -> None:
    """Reading behind the newest record gives an empty page at once, also of an empty stream."""
    async with open_log() as log:
        run = await new_run(log)
        for newest in (0, 4):
            page = await log.read(run, after=Cursor(None, newest))
            expect(not page.drafts, f"a page of {len(page.drafts)} records behind the newest")
            expect_equal(page.first_seq, newest + 1, "where the next record will be")
            expect(not page.ended, "a page of a running run says that the run has ended")
            await log.append(run, notes(run, range(4)))


async def check_a_limit_is_respected(open_log: OpenLog) -> None:
    """A page never holds more than `limit` records, and the next page goes on behind it."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, range(700)))
        for limit in (1, 2, 255, 256, 257, 699, 700):
            page = await log.read(run, after=Cursor(None, 0), limit=limit)
            expect(0 < len(page.drafts) <= limit, f"a page of {len(page.drafts)} for limit={limit}")
            # One by one only the last of them: across a network seven hundred pages take long.
            after = page.last_seq if limit not in (1, 2) else 500
            rest = await read_all(log, run, after=after, limit=limit)
            wanted = [*range(page.last_seq), *range(after, 700)]
            expect_equal(numbers_of([*page.drafts, *rest]), wanted, "all pages")


async def check_last_counts_after_filtering(open_log: OpenLog) -> None:
    """`last=N` begins with the N newest records that the filter lets through."""
    async with open_log() as log:
        run = await new_run(log)
        for number in range(300):
            kind = "rare" if number % 100 == 0 else "note"
            await log.append(run, [make_draft(run, kind, {"n": number})])
        for last, wanted in ((2, [100, 200]), (3, [0, 100, 200]), (9, [0, 100, 200]), (0, [])):
            got = await collect(subscribe(log, run, kinds="rare", last=last, follow=False))
            expect_equal(numbers_of(got), wanted, f"last={last} of a filter")
        got = await collect(subscribe(log, run, last=4, follow=False))
        expect_equal(numbers_of(got), [296, 297, 298, 299], "last=4 without a filter")


async def check_last_counts_beyond_a_page(open_log: OpenLog) -> None:
    """`last=N` counts right for any N, also for more records than one page holds."""
    total, last = READ_LIMIT_MAX + 1500, READ_LIMIT_MAX + 1000
    async with open_log() as log:
        run = await new_run(log)
        for start in range(0, total, 1000):
            await log.append(run, notes(run, range(start, min(start + 1000, total))))
            await asyncio.sleep(0)
        got = await collect(subscribe(log, run, last=last, follow=False))
        expect_equal(seqs_of(got), list(range(501, total + 1)), f"the numbers of last={last}")


async def check_last_counts_what_other_processes_wrote(open_log: OpenLog) -> None:
    """`last=N` counts the newest records of the stream, whoever wrote them."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        await log.append(run, notes(run, range(10)))
        await other.append(run, notes(run, range(10, 20)))
        for last in (3, 10, 12, 15):
            got = await collect(subscribe(log, run, last=last, follow=False))
            expect_equal(numbers_of(got), list(range(20 - last, 20)), f"last={last}")


async def check_trimmed_records_are_told_as_a_gap(open_log: OpenLog) -> None:
    """Who asks for trimmed records gets a gap with the reason and the range, then what is left."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, range(1, 11)))
        whole = await collect(subscribe(log, run, follow=False))
        await log.trim(run, through=6)
        gone = await refusal(log.read(run, after=Cursor(None, 2)), PositionGone, "a trimmed record")
        expect_equal(gone.first_seq, 7, "the first record left, as the refusal tells it")
        for start in ("begin", "cursor"):
            after = whole[2].cursor if start == "cursor" else None
            got = await collect(subscribe(log, run, after=after, follow=False))
            _expect_gap(got[0], reason="trimmed", from_seq=4 if after else 1, next_seq=7)
            expect_equal(got[0].data["to_seq"], 6, "the last record that is missing")
            expect_equal(seqs_of(got[1:]), [7, 8, 9, 10], "what is left")
            rest = await collect(subscribe(log, run, after=got[0].cursor, follow=False))
            expect_equal(seqs_of(rest), [7, 8, 9, 10], "what follows the gap's own cursor")


async def check_trimming_keeps_the_numbers(open_log: OpenLog) -> None:
    """Trimming takes exactly the records up to its limit; the others keep their numbers."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, range(1, 601)))
        for through, first in ((0, 1), (1, 2), (300, 301), (299, 301), (599, 600), (10_000, 601)):
            await log.trim(run, through=through)
            info = await log.info(run)
            expect_equal((info.first_seq, info.last_seq), (first, 600), "first and newest number")
            left = numbers_of(await read_all(log, run, after=first - 1))
            expect_equal(left, list(range(first, 601)), f"what trim(through={through}) left")
        appended = await log.append(run, notes(run, [601]))
        expect_equal(appended.first_seq, 601, "the number after everything was trimmed")


async def check_another_generation_is_told_as_a_gap(open_log: OpenLog) -> None:
    """A cursor of a stream that was lost and rebuilt gets a gap, then the new stream from its start."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, range(1, 4)))
        for seq in (2, 3, 40):
            foreign = Cursor("f0reign", seq)
            read = log.read(run, after=foreign)
            changed = await refusal(read, GenerationChanged, "a cursor of another generation")
            generation = (await log.info(run)).generation
            expect_equal(changed.generation, generation, "the generation in the refusal")
            got = await collect(subscribe(log, run, after=str(foreign)), 4)
            once = await collect(subscribe(log, run, after=str(foreign), follow=False))
            for records in (got, once):
                expect(bool(records), "a cursor of another generation gets nothing at all")
                _expect_gap(records[0], reason="generation_changed", from_seq=seq + 1, next_seq=1)
                expect_equal(seqs_of(records[1:]), [1, 2, 3], "the new stream")


def _expect_gap(record: Record, *, reason: str, from_seq: int, next_seq: int) -> None:
    expect_equal((record.kind, record.seq), (GAP, 0), "a gap takes no number")
    told = (record.data["reason"], record.data["from_seq"], record.data["next_seq"])
    expect_equal(told, (reason, from_seq, next_seq), "what the gap tells")
