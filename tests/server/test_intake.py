"""The intake: appends of many connections share commits, and each of them is answered."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing

from runstream import process
from runstream.log import Producer
from runstream.record import make_draft
from runstream.server.intake import TAKEN_MAX, Intake

PATIENCE_S = 30.0
RUN = "run"


async def test_more_appends_than_one_commit_takes_are_all_stored(sqlite_url: str) -> None:
    log = await asyncio.to_thread(process.acquire_log, sqlite_url)
    await log.open(RUN, producer=None, workflow="w")
    intake = Intake(log)

    async def append(number: int) -> int:
        producer = Producer(f"p{number}", 0, 1)
        draft = make_draft(RUN, "event", b"%d" % number)
        return (await intake.append(RUN, [draft], producer=producer, final=False)).last_seq

    # Nothing is committed while another process writes: so the others come before the second commit.
    with closing(sqlite3.connect(sqlite_url.partition(":")[2], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        appends = [asyncio.create_task(append(number)) for number in range(3 * TAKEN_MAX)]
        await asyncio.sleep(0)
        other.execute("ROLLBACK")
    async with asyncio.timeout(PATIENCE_S):
        stored = await asyncio.gather(*appends)
    assert sorted(stored) == list(range(1, 3 * TAKEN_MAX + 1))
    await process.release_log(sqlite_url, log)
