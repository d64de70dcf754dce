"""`kill -9` of the writing process at random points: nothing that anyone saw or was promised is lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from programs import report
from runstream.filter import make_filter
from runstream.logs.sqlite import SqliteLog
from runstream.record import Cursor
from runstream.start import make_start
from runstream.subscription import Subscription

BATCH = 7
PRODUCERS = ("a", "b")

# Forks a writer for each line that it reads; the writer's word is one `write` each, so that a kill
# leaves no half of it. Two producers append at once and share commits. A new writer first sends again
# what its predecessor may have had in flight: the last batch that is stored, and the one behind it.
NURSERY = """
import asyncio, os, sys
from pathlib import Path
from runstream.log import Producer
from runstream.logs.sqlite import SqliteLog
from runstream.record import make_draft

BATCH = int(sys.argv[2])

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

async def append(log, name, epoch, number):
    drafts = [
        make_draft("r", "token", {"producer": name, "n": n, "text": "x" * (n * 37 % 900)})
        for n in range(number, number + BATCH)
    ]
    return await log.append("r", drafts, producer=Producer(name, epoch, number))

async def produce(log, name, last):
    opened = await log.open("r", producer=name, workflow="w")
    number = opened.number
    say("opened", name, number)
    if number:
        again = await append(log, name, opened.epoch, number - BATCH + 1)
        assert again.duplicates == BATCH and again.last_seq > 0, again
    while number < last:
        await append(log, name, opened.epoch, number + 1)
        number += BATCH
        say("stored", name, number)

async def write(last):
    log = SqliteLog(Path(sys.argv[1]))
    await asyncio.gather(*(produce(log, name, last) for name in sys.argv[3:]))
    if last < 10**9:
        await log.append("r", [make_draft("r", "run.completed", {})], final=True)
    await log.aclose()

for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        say("pid", os.getpid())
        asyncio.run(write(int(line)))
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    say("gone", status)
"""


class Nursery:
    """The other side of that program."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.stored: defaultdict[str, int] = defaultdict(int)
        self.pid = 0

    async def start(self, last: int) -> None:
        """Have a writer go on until both producers have stored `last` records, and end the run."""
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(f"{last}\n".encode())
        assert (await self.next())[0] == "pid"

    async def next(self) -> list[str]:
        """The next word of the writer; notes and checks what it promises."""
        stdout = self.process.stdout
        assert stdout is not None
        words = (await stdout.readline()).decode().split()
        assert words, "the writer's program has died"
        match words:
            case ["pid", pid]:
                self.pid = int(pid)
            case ["opened", producer, number]:
                # What was acknowledged is there; what was in flight is there whole, or not at all.
                lead = int(number) - self.stored[producer]
                assert lead in {0, BATCH}, f"{lead} records more than were acknowledged"
                self.stored[producer] = int(number)
            case ["stored", producer, number]:
                self.stored[producer] = int(number)
            case ["gone", _]:
                pass
            case _:
                pytest.fail(f"the writer says {words}")
        return words

    async def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        while (words := await self.next())[0] != "gone":
            pass
        assert words[1] == str(int(signal.SIGKILL))


async def follow(log: SqliteLog, seen: list[tuple[int, str, int]]) -> None:
    subscription = Subscription(
        log, "r", filter=make_filter(), start=make_start(None, None, None), wait=True
    )
    async for record in subscription:
        if record.kind == "token":
            seen.append((record.seq, record.data["producer"], record.data["n"]))  # noqa: PERF401 - as they come


async def stored_records(path: Path) -> list[tuple[int, str, int]]:
    log = SqliteLog(path)
    records: list[tuple[int, str, int]] = []
    seq = 0
    while not (page := await log.read("r", after=Cursor(None, seq))).ended or page.drafts:
        for draft in page.drafts:
            seq += 1
            if draft.kind == "token":
                data = msgspec.json.decode(draft.data)
                records.append((seq, data["producer"], data["n"]))
    await log.aclose()
    return records


async def kill_writers(path: Path, kills: int, seed: int) -> None:
    report(f"seed {seed}")
    chance = random.Random(seed)
    reading = SqliteLog(path)
    seen: list[tuple[int, str, int]] = []
    following = asyncio.create_task(follow(reading, seen))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", NURSERY, str(path), str(BATCH), *PRODUCERS),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    nursery = Nursery(process)
    try:
        for _ in range(kills):
            await nursery.start(10**9)
            for _ in range(chance.randrange(25)):
                await nursery.next()
            await asyncio.sleep(chance.random() * 0.003)
            await nursery.kill()
        last = (max(nursery.stored.values()) // BATCH + 3) * BATCH
        await nursery.start(last)
        while (words := await nursery.next())[0] != "gone":
            pass
        assert words[1] == "0"
        await asyncio.wait_for(following, 120)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        following.cancel()
        await reading.aclose()

    stored = await stored_records(path)
    assert seen == stored
    assert [seq for seq, _, _ in stored] == list(range(1, 2 * last + 1))
    for name in PRODUCERS:
        assert [n for _, producer, n in stored if producer == name] == list(range(1, last + 1))
    assert await asyncio.to_thread(faults_found, path) == [("ok",)]


def faults_found(path: Path) -> list[tuple[str]]:
    """What SQLite says of its file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall()


async def test_nothing_seen_or_promised_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    await kill_writers(tmp_path / "events.db", kills=10, seed=1)


@pytest.mark.soak
async def test_nothing_is_lost_in_two_hundred_kills(tmp_path: Path) -> None:
    await kill_writers(tmp_path / "events.db", kills=200, seed=random.randrange(2**32))
