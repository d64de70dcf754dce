"""Rude: cancelling, closing and odd input leave the stream whole and the log usable."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

import msgspec

from ..errors import InvalidInput, LogClosed, PayloadTooLarge
from ..log import LIST_LIMIT_MAX, Log, Producer
from ..payload import RECORD_SIZE_BYTES_MAX
from ..record import Cursor, make_draft
from .check import (
    FOREVER_S,
    TICK_S,
    WORKFLOW,
    OpenLog,
    collect,
    expect,
    expect_equal,
    let_it_wait,
    new_name,
    new_run,
    notes,
    numbers_of,
    read_all,
    refusal,
    subscribe,
)


async def check_a_cancelled_append_is_all_or_nothing(open_log: OpenLog) -> None:
    """Cancelling an append stores all of it or nothing, and a retry settles which."""
    async with open_log() as log:
        run, producer = await new_run(log), new_name()
        for turn in range(40):
            batch = notes(run, range(3 * turn, 3 * turn + 3))
            sent = Producer(producer, 0, 3 * turn + 1)
            append = asyncio.ensure_future(log.append(run, batch, producer=sent))
            for _ in range(turn % 4):
                await asyncio.sleep(0)
            append.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await append
            await log.append(run, batch, producer=sent)
        expect_equal(numbers_of(await read_all(log, run)), list(range(120)), "what is stored")


async def check_cancelled_appends_leave_the_others_alone(open_log: OpenLog) -> None:
    """Of many appends at once some are cancelled: the others are stored, and no batch in part."""
    async with open_log() as log:
        run = await new_run(log)
        appends = [
            asyncio.ensure_future(log.append(run, notes(run, range(3 * place, 3 * place + 3))))
            for place in range(60)
        ]
        await asyncio.sleep(0)
        for append in appends[::3]:
            append.cancel()
        answers = await asyncio.gather(*appends, return_exceptions=True)
        stored = numbers_of(await read_all(log, run))
        batches = [stored[place : place + 3] for place in range(0, len(stored), 3)]
        expect(all(batch[2] == batch[0] + 2 for batch in batches), "a batch is stored in part")
        there = {batch[0] // 3 for batch in batches}
        kept = {
            place for place, answer in enumerate(answers) if not isinstance(answer, BaseException)
        }
        failed = {place for place in range(60) if place % 3} - kept
        expect(not failed, f"of 40 appends that nobody cancelled {len(failed)} failed")
        expect(kept <= there, "an append that nobody cancelled is not stored")
        expect_equal(len(there), len(batches), "batches that are stored once")


async def check_a_cancelled_wait_leaves_the_log_usable(open_log: OpenLog) -> None:
    """Cancelling a wait, a read or a subscriber disturbs nobody, and the position stays valid."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, [1]))
        calls: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(log.wait(run, after=1, timeout=FOREVER_S)),
            asyncio.ensure_future(log.read(run, after=Cursor(None, 0))),
            asyncio.ensure_future(collect(subscribe(log, run), 2)),
        ]
        other = asyncio.ensure_future(collect(subscribe(log, run), 2))
        await let_it_wait(calls[0])
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await log.append(run, notes(run, [2]))
        expect_equal(numbers_of(await other), [1, 2], "what another follower got")
        expect_equal(numbers_of(await read_all(log, run)), [1, 2], "the stream")


async def check_closing_wakes_waiters(open_log: OpenLog) -> None:
    """Closing the log ends every wait and every subscriber with LogClosed."""

    async def wait_on(log: Log, run: str) -> None:
        while True:  # a wait may return early for nothing
            await log.wait(run, after=0, timeout=FOREVER_S)

    async with open_log() as log:
        run = await new_run(log)
        waiting: list[asyncio.Future[Any]] = [
            asyncio.ensure_future(wait_on(log, run)),
            asyncio.ensure_future(wait_on(log, new_name())),
            asyncio.ensure_future(collect(subscribe(log, run))),
        ]
        await let_it_wait(waiting[0])
        await log.aclose()
        for task in waiting:
            await refusal(task, LogClosed, "waiting while the log is closed")


async def check_closing_settles_appends(open_log: OpenLog) -> None:
    """An append that is under way when the log is closed is stored or refused, and never hangs."""
    for turns in range(8):
        async with open_log() as other:
            async with open_log() as log:
                run = await new_run(log)
                appends = [
                    asyncio.ensure_future(log.append(run, notes(run, [n]))) for n in range(30)
                ]
                for _ in range(turns):
                    await asyncio.sleep(0)
                await log.aclose()
                answers = await asyncio.gather(*appends, return_exceptions=True)
            errors = {type(answer) for answer in answers if isinstance(answer, BaseException)}
            expect(errors <= {LogClosed}, f"appends fail with {errors} when the log is closed")
            if open_log.reopens:  # else the one log there was is closed
                there = numbers_of(await read_all(other, run))
                told = {n for n, answer in enumerate(answers) if not isinstance(answer, LogClosed)}
                expect(told <= set(there), "an append that returned is not stored")


async def check_closing_twice_is_harmless(open_log: OpenLog) -> None:
    """Closing a closed log does nothing, also from two tasks at once."""
    async with open_log() as log:
        await asyncio.gather(log.aclose(), log.aclose())
        await log.aclose()


async def check_a_closed_log_refuses_every_call(open_log: OpenLog) -> None:
    """After closing, every call is answered with LogClosed."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, [1]))
        await log.aclose()
        await refusal(log.info(run), LogClosed, "info after closing")
        await refusal(log.append(run, notes(run, [2])), LogClosed, "append after closing")
        await refusal(log.read(run, after=Cursor(None, 0)), LogClosed, "read after closing")
        await refusal(log.wait(run, after=0, timeout=TICK_S), LogClosed, "wait after closing")
        await refusal(log.list(), LogClosed, "list after closing")
        await refusal(log.trim(run, through=1), LogClosed, "trim after closing")
        opening = log.open(run, producer=new_name(), workflow=WORKFLOW)
        await refusal(opening, LogClosed, "open after closing")
        await refusal(log.renew(run, owner="x", epoch=1), LogClosed, "renew after closing")
        await refusal(log.release(run, owner="x", epoch=1), LogClosed, "release after closing")


async def check_impossible_calls_are_refused(open_log: OpenLog) -> None:
    """An empty append, a page of nothing and impossible names are refused with InvalidInput."""
    async with open_log() as log:
        run = await new_run(log)
        await refusal(log.append(run, []), InvalidInput, "an append without records")
        for limit in (0, -1):
            page = log.read(run, after=Cursor(None, 0), limit=limit)
            await refusal(page, InvalidInput, f"a page of {limit} records")
            await refusal(log.list(limit=limit), InvalidInput, f"a list of {limit} runs")
        for name in ("", "two words", "a/b", "x" * 129, "-x", "é"):
            opening = log.open(name, producer=None, workflow=WORKFLOW)
            await refusal(opening, InvalidInput, f"the run id {name[:20]!r}")
        for name in ("", "two\nlines", "nul\0", "x" * 129, "\ud800"):
            opening = log.open(new_name(), producer=name, workflow=WORKFLOW)
            await refusal(opening, InvalidInput, f"the producer id {name[:20]!r}")
            opening = log.open(new_name(), producer=None, workflow=name)
            await refusal(opening, InvalidInput, f"the workflow {name[:20]!r}")
        expect_equal(await read_all(log, run), [], "the stream after the refusals")


async def check_an_oversized_record_is_refused_before_storing(open_log: OpenLog) -> None:
    """A record above the limit is refused where it is made; nothing of its batch is stored."""
    async with open_log() as log:
        run = await new_run(log)

        async def write(size: int) -> None:
            filler = b'"' + b"x" * (size - 2) + b'"'
            await log.append(run, [*notes(run, [1]), make_draft(run, "big", filler)])

        await refusal(write(RECORD_SIZE_BYTES_MAX + 1), PayloadTooLarge, "a record above the limit")
        expect_equal((await log.info(run)).last_seq, 0, "the newest number after the refusal")
        await write(RECORD_SIZE_BYTES_MAX)
        stored = [len(bytes(draft.data)) for draft in await read_all(log, run)]
        expect_equal(stored[1], RECORD_SIZE_BYTES_MAX, "the size of the largest record")


async def check_large_records_come_back_whole(open_log: OpenLog) -> None:
    """Many records of the largest size are stored and read, at once and one by one."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        sizes = [RECORD_SIZE_BYTES_MAX - place for place in range(6)]
        for size in sizes:
            filler = b'"' + b"x" * (size - 2) + b'"'
            await log.append(run, [make_draft(run, "big", filler)])
        for handle in (log, other):
            got = await collect(subscribe(handle, run, follow=False))
            expect_equal([len(record.raw) for record in got], sizes, "the sizes of large records")


ODD_NAMES = (
    "naïve ☃ 名前 🚀",
    "'; DROP TABLE run; --",
    '"quoted" `ticks` \\back\\slash',
    "100% _like% %s {0} ${x}",
    " spaces ",
    "a.b/c:d*e>f#g?h&i=j",
    "x" * 128,
)


async def check_odd_names_are_kept(open_log: OpenLog) -> None:
    """Names with any printable text are stored, filtered and listed as they are."""
    async with open_log() as log:
        for name in ODD_NAMES:
            workflow = f"{new_name()[:14]}{name}"[:128]
            run = new_name()
            opened = await log.open(run, producer=name, workflow=workflow)
            draft = make_draft(run, name, {}, topic=name, step=name, correlation_id=name)
            sent = Producer(name, opened.epoch, 1)
            await log.append(run, [*notes(run, [1]), draft], producer=Producer(name, sent.epoch, 1))
            got = await collect(
                subscribe(log, run, kinds=name, topics=name, correlation_ids=name, follow=False)
            )
            names = [
                (record.kind, record.topic, record.step, record.correlation_id) for record in got
            ]
            expect_equal(names, [(name,) * 4], "the names of the record that the filter found")
            expect_equal(got[0].workflow, workflow, "the workflow")
            listed = [info.run_id for info in await log.list(workflow=workflow)]
            expect_equal(listed, [run], "the runs of the workflow")


ODD_DATA = (
    b"{}",
    b'{"text":"line\\nline\\r\\n\\ttab \\u0000 nul \\u2028"}',
    '{"text":"ünïcödé 名前 🚀 \u2028 \x7f"}'.encode(),
    b'{"text":"\\ud83d\\ude80 \\u00e9 escaped"}',
    b'{"big":123456789012345678901234567890,"small":1e-300,"f":1.0,"e":1E5}',
    b'{"twice":1,"twice":2,"":{"":[]}}',
    b'[null,true,false,-0,"\\/"]',
    b'"text"',
    b"null",
    b"0",
    b'{"sql":"\'; DROP TABLE chunk; --","percent":"%s %d"}',
    b'{"data: x":"id: 5\\n\\nevent: y"}',
)


async def check_data_comes_back_byte_for_byte(open_log: OpenLog) -> None:
    """The JSON of a record is stored and read exactly as it was given."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        await log.append(run, [make_draft(run, "odd", raw) for raw in ODD_DATA])
        for raw in ODD_DATA:
            await log.append(run, [make_draft(run, "odd", raw)])
        for handle in (log, other):
            got = await collect(subscribe(handle, run, follow=False))
            expect_equal([record.raw for record in got], [*ODD_DATA, *ODD_DATA], "the data")
        envelope = make_draft(run, "odd", {}, topic="t", step="s", correlation_id="c", index=-7)
        whole = msgspec.structs.replace(envelope, step_run_id="once", attempt=3, time=1)
        await log.append(run, [whole])
        stored = await read_all(other, run, after=2 * len(ODD_DATA))
        expect_equal(stored, [whole], "a record with every field")


async def check_many_appends_at_once_are_all_stored(open_log: OpenLog) -> None:
    """Hundreds of callers at once, on many runs, are each answered for their own records."""
    async with open_log() as log:
        runs = [await new_run(log) for _ in range(10)]

        async def write(log: Log, place: int) -> tuple[int, int, int]:
            appended = await log.append(runs[place % 10], notes(runs[place % 10], [place]))
            return place % 10, appended.first_seq, place

        answers = await asyncio.gather(*(write(log, place) for place in range(600)))
        for at, run in enumerate(runs):
            stored = numbers_of(await read_all(log, run))
            told = {seq: number for where, seq, number in answers if where == at}
            expect_equal(dict(enumerate(stored, 1)), told, "records and the numbers told")


async def check_limits_above_the_most_are_lowered(open_log: OpenLog) -> None:
    """A limit beyond what a log gives at once is lowered, not refused."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, range(5)))
        page = await log.read(run, after=Cursor(None, 0), limit=10**9)
        expect_equal(numbers_of(page.drafts), list(range(5)), "a page with a huge limit")
        listed = await log.list(workflow=WORKFLOW, limit=10**9)
        expect(0 < len(listed) <= LIST_LIMIT_MAX, f"a list of {len(listed)} runs at once")
