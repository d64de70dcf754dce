"""Live: history and what comes are one stream, for any number of readers at any pace."""

from __future__ import annotations

import asyncio

from ..errors import RunNotFound
from ..log import Log
from ..record import Cursor
from .check import (
    FOREVER_S,
    TICK_S,
    WORKFLOW,
    OpenLog,
    collect,
    ending,
    expect,
    expect_equal,
    let_it_wait,
    new_name,
    new_run,
    notes,
    numbers_of,
    refusal,
    seqs_of,
    subscribe,
)


async def wait_for_news(log: Log, run: str, *, after: int) -> None:
    """`log.wait` may return early for nothing; this returns when there is a record, or hangs."""
    while not (await log.read(run, after=Cursor(None, after))).drafts:
        await log.wait(run, after=after, timeout=FOREVER_S)


async def check_wait_returns_at_once_if_there_is_more(open_log: OpenLog) -> None:
    """`wait` returns at once if there is a record behind the position already, or the run has ended."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        await log.append(run, notes(run, [1, 2]))
        for handle in (log, other):
            await handle.wait(run, after=0, timeout=FOREVER_S)
            await handle.wait(run, after=1, timeout=FOREVER_S)
        child = await new_run(log, parent=run)
        await log.append(run, [ending(run)], final=True)
        for handle in (log, other):
            await handle.wait(child, after=0, timeout=FOREVER_S)


async def check_wait_wakes_on_append(open_log: OpenLog) -> None:
    """Whoever waits for a run, or for a child in its stream, is woken by the next record."""
    async with open_log() as log:
        run = await new_run(log)
        child = await new_run(log, parent=run)
        for number in range(1, 4):
            waiting = [
                asyncio.ensure_future(wait_for_news(log, waited, after=number - 1))
                for waited in (run, child)
            ]
            await let_it_wait(waiting[-1])
            expect(not any(task.done() for task in waiting), "there was a record before its append")
            await log.append(run, notes(run, [number]))
            await asyncio.gather(*waiting)


async def check_wait_wakes_on_append_from_another_process(open_log: OpenLog) -> None:
    """Whoever waits is woken by a record that another process has appended."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        for number in range(1, 5):
            waiter, writer = (log, other) if number % 2 else (other, log)
            waiting = asyncio.ensure_future(wait_for_news(waiter, run, after=number - 1))
            await let_it_wait(waiting)
            await writer.append(run, notes(run, [number]))
            await waiting


async def check_wait_times_out(open_log: OpenLog) -> None:
    """`wait` returns after its timeout if nothing comes, and says nothing else."""
    async with open_log() as log:
        run = await new_run(log)
        child = await new_run(log, parent=run)
        await log.append(run, notes(run, [1]))
        for waited in (run, child):
            await log.wait(waited, after=1, timeout=TICK_S)
            await log.wait(waited, after=1, timeout=0)
        await log.wait(new_name(), after=0, timeout=TICK_S)
        expect_equal((await log.info(run)).last_seq, 1, "the newest number after the waits")


async def check_wait_wakes_when_a_run_is_opened(open_log: OpenLog) -> None:
    """Whoever waits for a run that is not there yet is woken when any process opens it."""

    async def wait_for(log: Log, run: str) -> None:
        while True:
            try:
                await log.info(run)
            except RunNotFound:
                await log.wait(run, after=0, timeout=FOREVER_S)
            else:
                return

    async with open_log() as log, open_log() as other:
        parent = await new_run(log)
        for opener in (log, other):
            for parent_run_id in (None, parent):
                run = new_name()
                waiting = asyncio.ensure_future(wait_for(log, run))
                await let_it_wait(waiting)
                await opener.open(
                    run, producer=None, workflow=WORKFLOW, parent_run_id=parent_run_id
                )
                await waiting


async def check_history_to_live_has_no_hole(open_log: OpenLog) -> None:
    """Who comes while writers go on gets every record once: what was there, then what comes."""
    total = 400

    async def write(log: Log, run: str) -> None:
        for start in range(0, total, 4):
            await log.append(run, notes(run, range(start, start + 4)))
        await log.append(run, [ending(run)], final=True)

    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        writing = asyncio.ensure_future(write(log, run))
        followers: list[asyncio.Future[list[int]]] = []
        for place in range(12):
            handle = (log, other)[place % 2]
            followers.append(asyncio.ensure_future(_follow_to_the_end(handle, run)))
            await log.wait(run, after=place * total // 12, timeout=FOREVER_S)
        await writing
        for seen in await asyncio.gather(*followers):
            expect_equal(seen, list(range(1, total + 2)), "the numbers that a follower saw")


async def _follow_to_the_end(log: Log, run: str) -> list[int]:
    return seqs_of(await collect(subscribe(log, run)))


async def check_many_followers_all_see_all(open_log: OpenLog) -> None:
    """Any number of subscribers get the whole stream, each with its own position."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        following = [
            asyncio.ensure_future(_follow_to_the_end((log, other)[place % 2], run))
            for place in range(100)
        ]
        await let_it_wait(following[-1])
        for start in range(0, 30, 3):
            await log.append(run, notes(run, range(start, start + 3)))
        await log.append(run, [ending(run)], final=True)
        for seen in await asyncio.gather(*following):
            expect_equal(seen, list(range(1, 32)), "the numbers that one of 100 followers saw")


async def check_a_slow_follower_harms_nobody(open_log: OpenLog) -> None:
    """A subscriber that stops reading delays no one, and misses nothing when it goes on."""
    total = 12_000
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, [0]))
        async with subscribe(log, run) as slow:
            first = await collect(slow, 1)
            quick = asyncio.ensure_future(_follow_to_the_end(log, run))
            for start in range(1, total, 1000):
                await log.append(run, notes(run, range(start, min(start + 1000, total))))
                await asyncio.sleep(0)
            await log.append(run, [ending(run)], final=True)
            expect_equal(await quick, list(range(1, total + 2)), "what the quick follower saw")
            rest = await collect(slow)
            expect_equal(
                numbers_of([*first, *rest[:-1]]), list(range(total)), "what the slow one saw"
            )


async def check_following_before_the_run_exists(open_log: OpenLog) -> None:
    """With `wait=True` a subscriber may come before its run; without it the run is not found."""
    async with open_log() as log, open_log() as other:
        for opener in (log, other):
            run = new_name()
            await refusal(collect(subscribe(log, run)), RunNotFound, "a run that is not there")
            following = asyncio.ensure_future(collect(subscribe(log, run, wait=True)))
            await let_it_wait(following)
            await opener.open(run, producer=None, workflow=WORKFLOW)
            await opener.append(run, notes(run, [1, 2]))
            await opener.append(run, [ending(run)], final=True)
            expect_equal(seqs_of(await following), [1, 2, 3], "what the early subscriber got")
