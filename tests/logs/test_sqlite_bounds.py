"""What an SQLite log may take of the disk, of memory and of trust in the clock."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from programs import report, run_program
from runstream.filter import make_filter
from runstream.log import LeaseClaim
from runstream.logs import sqlite_file, sqlite_read, sqlite_writer
from runstream.logs.sqlite import SqliteLog
from runstream.logs.sqlite_recent import STREAM_SIZE_BYTES_MAX
from runstream.record import Cursor, Draft, make_draft
from runstream.start import make_start
from runstream.subscription import Subscription

MIB = 1024 * 1024


def token(**data: object) -> Draft:
    return make_draft("r", "token", data)


@pytest.mark.parametrize(("durability", "synchronous"), [("power", 2), ("process", 1)])
async def test_every_commit_is_synced_unless_the_url_says_otherwise(
    durability: sqlite_file.Durability, synchronous: int, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    connection = sqlite_file.open_writer(path, durability)
    assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_reader_can_neither_write_nor_hold_up_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    writer = sqlite_file.open_writer(path, "power")
    writer.execute("BEGIN IMMEDIATE")
    reader = sqlite_file.open_reader(path)  # waits for nothing, though the log is being written
    assert reader.execute("SELECT count(*) FROM run").fetchone() == (0,)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.execute("DELETE FROM run")
    writer.execute("COMMIT")
    reader.close()
    writer.close()


async def test_the_write_ahead_log_is_bounded_under_constant_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At any moment somebody reads, so SQLite itself never finds the moment to begin it anew."""
    # The same in small: the real figures are 32 and 64 MiB.
    monkeypatch.setattr(sqlite_file, "CHECKPOINT_PAGES", 250)
    monkeypatch.setattr(sqlite_file, "WAL_SIZE_BYTES_MAX", 4 * MIB)
    # (Nor does a slow machine keep the readers from ending in time.)
    monkeypatch.setattr(sqlite_file, "WAL_WAIT_S", 30.0)
    monkeypatch.setattr(sqlite_writer, "WAL_LOOK_S", 0.0)
    monkeypatch.setattr(sqlite_writer, "WAL_RETRY_S", 0.0)
    path = tmp_path / "events.db"
    log = SqliteLog(path)
    await log.open("r", producer=None, workflow="w")
    ending = threading.Event()
    turns = [threading.Semaphore(1), threading.Semaphore(0)]

    def read(own: int) -> None:
        """Begin to read, and only then let the other one end and begin again."""
        connection = sqlite_file.open_reader(path)
        while not ending.is_set():
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM run").fetchone()
            turns[1 - own].release()
            turns[own].acquire(timeout=0.01)
            connection.execute("COMMIT")
        connection.close()

    readers = [threading.Thread(target=read, args=(own,)) for own in range(2)]
    for reader in readers:
        reader.start()
    longest = 0
    drafts = [token(text="x" * 1000) for _ in range(500)]
    for _ in range(100):
        await log.append("r", drafts)
        longest = max(longest, Path(f"{path}-wal").stat().st_size)
    ending.set()
    for reader in readers:
        reader.join()
    await log.aclose()
    assert path.stat().st_size > 45 * MIB
    report(f"the write-ahead log of {path.stat().st_size / MIB:.0f} MiB: {longest / MIB:.1f} MiB")
    assert longest < 10 * MIB


async def test_a_page_of_large_records_is_short(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "events.db")
    await log.open("r", producer=None, workflow="w")
    for _ in range(20):
        await log.append("r", [token(text="x" * (MIB - 100))])
    await log.aclose()
    log = SqliteLog(tmp_path / "events.db")
    seqs: list[int] = []
    while len(seqs) < 20:
        page = await log.read("r", after=Cursor(None, len(seqs)))
        assert sum(len(bytes(draft.data)) for draft in page.drafts) <= (
            sqlite_read.PAGE_SIZE_BYTES_MAX + MIB
        )
        seqs.extend(range(page.first_seq, page.last_seq + 1))
    assert seqs == list(range(1, 21))
    await log.aclose()


# Holds a subscriber 100 000 records behind while it goes on producing; prints by how much its memory grew.
LAG = """
import asyncio, re, resource, sys
from pathlib import Path
from runstream.filter import make_filter
from runstream.log import Producer
from runstream.logs.sqlite import SqliteLog
from runstream.record import make_draft
from runstream.start import make_start
from runstream.subscription import Subscription

BEHIND, TOTAL, BATCH = 100_000, int(sys.argv[2]), 500

def peak_mib():
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` begins with the peak of whoever started us
        return int(re.search(r"VmHWM:\\s+([0-9]+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

async def main():
    log = SqliteLog(Path(sys.argv[1]))
    await log.open("r", producer=None, workflow="w")
    produced, seen = 0, 0

    async def produce():
        nonlocal produced
        while produced < TOTAL:
            drafts = [
                make_draft("r", "token", {"n": produced + i, "text": "x" * 80}) for i in range(1, BATCH + 1)
            ]
            await log.append("r", drafts)
            produced += BATCH
            while produced < TOTAL and produced > seen + BEHIND + 5 * BATCH:
                await asyncio.sleep(0)
        await log.append("r", [make_draft("r", "run.completed", {})], final=True)

    async def follow():
        nonlocal seen
        async for record in Subscription(
            log, "r", filter=make_filter(), start=make_start(None, None, None)
        ):
            if record.kind == "token":
                seen += 1
                assert record.seq == seen == record.data["n"]
                while seen + BEHIND > produced < TOTAL:
                    await asyncio.sleep(0)

    await produce_first(log)
    before = peak_mib()
    await asyncio.gather(produce(), follow())
    assert seen == TOTAL
    await log.aclose()
    print(peak_mib() - before)

async def produce_first(log):
    # What the interpreter, the threads and SQLite take by themselves.
    await log.open("other", producer=None, workflow="w")
    for _ in range(20):
        await log.append("other", [make_draft("other", "token", {"text": "x" * 80}) for _ in range(500)])
    async for _ in Subscription(
        log, "other", filter=make_filter(), start=make_start(None, None, None), follow=False
    ):
        pass

asyncio.run(main())
"""


# The newest records of one stream, in memory for live readers, and the interpreter's own slack.
BEHIND_MIB_MAX = STREAM_SIZE_BYTES_MAX / MIB + 16


@pytest.mark.allow_blocking
def test_a_subscriber_far_behind_costs_no_memory(tmp_path: Path) -> None:
    """What is held is the newest part of the stream, and no more for a subscriber further behind."""
    with run_program(LAG, tmp_path / "events.db", 300_000) as program:
        grown = float(program.finish())
    report(f"a subscriber 100 000 records behind: peak memory grew by {grown:.1f} MiB")
    assert grown < BEHIND_MIB_MAX


@pytest.mark.soak
@pytest.mark.allow_blocking
def test_a_subscriber_far_behind_for_long_costs_no_memory(tmp_path: Path) -> None:
    with run_program(LAG, tmp_path / "events.db", 2_000_000) as program:
        grown = float(program.finish())
    report(f"the same over 2 000 000 records: {grown:.1f} MiB")
    assert grown < BEHIND_MIB_MAX


async def test_a_clock_that_steps_changes_no_order_and_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time_ns
    log = SqliteLog(tmp_path / "events.db", retention_s=3600.0)
    opened = await log.open("r", producer="p", workflow="w", claim=LeaseClaim(lease_s=30.0))
    seen: list[int] = []

    async def follow() -> None:
        subscription = Subscription(
            log, "r", filter=make_filter(), start=make_start(None, None, None)
        )
        async for record in subscription:
            seen.append(record.seq)  # noqa: PERF401 - one by one, as they come

    following = asyncio.create_task(follow())
    for step_s in (0, -86_400, 86_400, -3600, 10 * 365 * 86_400, 0):
        monkeypatch.setattr(time, "time_ns", lambda step_s=step_s: real() + step_s * 10**9)
        await log.append("r", [token(step=step_s)])
        await log.renew("r", owner="p", epoch=opened.epoch)
    page = await log.read("r", after=Cursor(None, 0))
    times = [draft.time for draft in page.drafts]
    assert times != sorted(times)  # informative: the producer's clock
    assert (await log.info("r")).status == "running"
    await log.append("r", [make_draft("r", "run.completed", {})], final=True)
    async with asyncio.timeout(90):
        await following
    assert seen == list(range(1, 8))
    await log.aclose()
