"""Several processes, and several handles of one process, on one SQLite file."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack, aclosing
from pathlib import Path

import msgspec
import pytest

from programs import report, run_program
from runstream.errors import PositionGone
from runstream.filter import make_filter
from runstream.log import Log
from runstream.logs.sqlite import SqliteLog
from runstream.record import Cursor, Draft, Record, make_draft
from runstream.start import make_start
from runstream.subscription import Subscription

# They start processes, and wait for them where nothing else runs.
pytestmark = pytest.mark.allow_blocking

# No honest wait comes near it.
HANG_S = 120.0
# Of all that is written, what others may write between two records of one writer. (On a slow disk one of two
# that took no turns was seen to starve for 4.8 s.)
STARVED_SHARE = 0.9


def token(**data: object) -> Draft:
    return make_draft("r", "token", data)


async def read_all(log: Log, after: int = 0) -> list[Draft]:
    drafts: list[Draft] = []
    while True:
        page = await log.read("r", after=Cursor(None, after + len(drafts)))
        if not page.drafts:
            return drafts
        drafts.extend(page.drafts)


def data_of(drafts: Sequence[Draft]) -> list[dict[str, object]]:
    return [msgspec.json.decode(draft.data) for draft in drafts]


SATURATE = """
import asyncio, sys, time
from pathlib import Path
from runstream.log import Producer
from runstream.logs.sqlite import SqliteLog
from runstream.record import make_draft

async def main():
    path, name, seconds, size = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    log = SqliteLog(path)
    opened = await log.open("r", producer=name, workflow="w")
    print("ready", flush=True)
    sys.stdin.readline()
    number, worst, end = 0, 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        drafts = [make_draft("r", "token", {"by": name, "n": number + i}) for i in range(1, size + 1)]
        start = time.monotonic()
        await log.append("r", drafts, producer=Producer(name, opened.epoch, number + 1))
        worst = max(worst, time.monotonic() - start)
        number += size
    await log.aclose()
    print(number, worst)

asyncio.run(main())
"""


@pytest.mark.parametrize("size", [1, 300])
@pytest.mark.parametrize("writers", [2, 4])
async def test_saturating_writers_do_not_starve_one_another(
    writers: int, size: int, tmp_path: Path
) -> None:
    path = tmp_path / "events.db"
    names = [f"p{number}" for number in range(writers)]
    with ExitStack() as stack:
        programs = [
            stack.enter_context(run_program(SATURATE, path, name, 1.0, size)) for name in names
        ]
        for program in programs:
            program.wait_line("ready")
        for program in programs:
            program.tell("go")
        answers = [program.finish().split() for program in programs]
    counts = dict(zip(names, (int(count) for count, _ in answers), strict=True))
    worst = [float(wait) for _, wait in answers]
    report(f"records {counts}, worst wait {[f'{wait * 1000:.0f} ms' for wait in worst]}")
    log = SqliteLog(path)
    stored = data_of(await read_all(log))
    await log.aclose()
    for name in names:
        assert [data["n"] for data in stored if data["by"] == name] == list(
            range(1, counts[name] + 1)
        )
        places = [place for place, data in enumerate(stored) if data["by"] == name]
        waits = [b - a for a, b in itertools.pairwise([-1, *places, len(stored)])]
        assert max(waits) < STARVED_SHARE * len(stored), f"{name} starved"
    assert len(stored) == sum(counts.values())


OPEN = """
import asyncio, sys
from pathlib import Path
from runstream.logs.sqlite import SqliteLog
from runstream.record import make_draft

async def main():
    print("ready", flush=True)
    sys.stdin.readline()
    log = SqliteLog(Path(sys.argv[1]))
    await log.open("r", producer=None, workflow="w")
    await log.append("r", [make_draft("r", "token", {"by": sys.argv[2]})])
    await log.aclose()

asyncio.run(main())
"""


async def test_eight_processes_open_one_new_file_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    with ExitStack() as stack:
        programs = [stack.enter_context(run_program(OPEN, path, number)) for number in range(8)]
        for program in programs:
            program.wait_line("ready")
        for program in programs:
            program.tell("go")
        for program in programs:
            program.finish()
    log = SqliteLog(path)
    assert {data["by"] for data in data_of(await read_all(log))} == set("01234567")
    await log.aclose()


PACE = """
import asyncio, random, sys, time
from pathlib import Path
from runstream.logs.sqlite import SqliteLog
from runstream.record import make_draft

async def main():
    log = SqliteLog(Path(sys.argv[1]))
    chance = random.Random(1)
    print("ready", flush=True)
    sys.stdin.readline()
    await log.open("r", producer=None, workflow="w")
    for n in range(int(sys.argv[2])):
        await asyncio.sleep(chance.uniform(0, 0.03))
        await log.append("r", [make_draft("r", "token", {"at": time.monotonic()})])
    await log.append("r", [make_draft("r", "run.completed", {})], final=True)
    await log.aclose()

asyncio.run(main())
"""


async def subscribe(log: Log) -> AsyncGenerator[Record]:
    subscription = Subscription(
        log, "r", filter=make_filter(), start=make_start(None, None, None), wait=True
    )
    async with subscription:
        async for record in subscription:
            yield record


async def test_a_record_of_another_process_wakes_a_subscriber(tmp_path: Path) -> None:
    """Also one that has waited since before the run was there. The test's figure is for people."""
    path = tmp_path / "events.db"
    log = SqliteLog(path)

    async def follow() -> list[float]:
        async with aclosing(subscribe(log)) as records:
            return [
                time.monotonic() - record.data["at"]
                async for record in records
                if record.kind == "token"
            ]

    with run_program(PACE, path, 60) as program:
        program.wait_line("ready")
        following = asyncio.ensure_future(follow())
        async with asyncio.timeout(HANG_S):
            while not log._bell._listeners:  # pyright: ignore[reportPrivateUsage] - it waits, and says so nowhere else
                await asyncio.sleep(0)
            program.tell("go")
            delays = await following
        program.finish()
    await log.aclose()
    delays.sort()
    report(f"appended → seen in another process: p50 {delays[30] * 1000:.1f} ms")
    report(f"p99 {delays[59] * 1000:.1f} ms")
    assert len(delays) == 60


async def test_two_handles_on_one_file_read_the_same(tmp_path: Path) -> None:
    """Each serves its own newest records from memory: the other's must not be missing in between."""
    chance = random.Random(7)
    handles = [SqliteLog(tmp_path / "events.db") for _ in range(2)]
    await handles[0].open("r", producer=None, workflow="w")
    written: list[int] = []
    for _ in range(300):
        log = chance.choice(handles)
        count = chance.choice([1, 1, 1, 5])
        numbers = range(len(written) + 1, len(written) + count + 1)
        await log.append("r", [token(n=n) for n in numbers])
        written.extend(numbers)
        if chance.random() < 0.2:
            # The tail that a look at the file found must not close a hole in memory.
            await chance.choice(handles).wait("r", after=len(written) - 1, timeout=HANG_S)
        after = chance.randrange(len(written) + 1)
        drafts = await read_all(chance.choice(handles), after)
        assert [data["n"] for data in data_of(drafts)] == written[after:]
    for log in handles:
        await log.aclose()


async def test_a_trim_by_another_handle_is_seen_at_once(tmp_path: Path) -> None:
    log, other = (SqliteLog(tmp_path / "events.db") for _ in range(2))
    await log.open("r", producer=None, workflow="w")
    await log.append("r", [token(n=n) for n in range(1, 11)])
    assert (await log.read("r", after=Cursor(None, 3))).first_seq == 4
    await other.trim("r", through=5)
    with pytest.raises(PositionGone) as gone:
        await log.read("r", after=Cursor(None, 3))
    assert gone.value.first_seq == 6
    await log.aclose()
    await other.aclose()


async def test_what_was_appended_and_trimmed_elsewhere_still_wakes(tmp_path: Path) -> None:
    log, other = (SqliteLog(tmp_path / "events.db") for _ in range(2))
    await log.open("r", producer=None, workflow="w")
    waiting = asyncio.create_task(log.wait("r", after=0, timeout=60))
    for _ in range(20):
        await other.append("r", [token()])
        await other.trim("r", through=10**6)
    async with asyncio.timeout(HANG_S):
        await waiting
    await log.aclose()
    await other.aclose()
