"""Does cost grow with history? Appends and resumes in an empty file and in one of 10 000 000 records.

Windows alternate between the two files, so that a noisy machine disturbs both alike. Appends are batches
of 64 in one stream; a resume opens a second handle's reader ten records before the end.
"""

import asyncio
import itertools
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

from benchmarks.measure import arguments, emit
from runstream.log import Log, Producer
from runstream.logs import open_log
from runstream.record import Cursor, Draft, make_draft

RUN = "run-1"
BATCH = 64


class Subject:
    """One file: its writer, and the handle of another reader."""

    def __init__(self, url: str) -> None:
        self.writer: Log = open_log(url)
        self.reader: Log = open_log(url)
        self.number = 1
        self.drafts: list[Draft] = [
            make_draft(RUN, "token", {"text": "token", "n": n}) for n in range(10_000)
        ]

    async def append(self, count: int = BATCH) -> None:
        producer = Producer("bench", epoch=0, number=self.number)
        await self.writer.append(RUN, self.drafts[:count], producer=producer)
        self.number += count

    async def resume(self) -> None:
        info = await self.reader.info(RUN)
        after = Cursor(info.generation, info.last_seq - 10)
        page = await self.reader.read(RUN, after=after)
        assert len(page.drafts) == 10


async def rate(work: Callable[[], Awaitable[None]], window_s: float) -> float:
    """Calls a second over a window."""
    begin = time.perf_counter()
    for count in itertools.count(1):
        await work()
        took = time.perf_counter() - begin
        if took > window_s:
            return count / took
    raise AssertionError


async def measure(scratch: str, records: int, window_s: float, rounds: int) -> None:
    small, large = Subject(f"sqlite:{scratch}/small.db"), Subject(f"sqlite:{scratch}/large.db")
    for subject in (small, large):
        await subject.writer.open(RUN, producer=None, workflow="bench")
        await subject.append()
    filled = time.perf_counter()
    while large.number < records:
        await large.append(10_000)
        if large.number % 1_000_000 < 10_000:
            print(f"filled {large.number:,} records", file=sys.stderr, flush=True)
    fill_s = time.perf_counter() - filled
    appends: list[list[float]] = [[], []]
    resumes: list[list[float]] = [[], []]
    for _ in range(rounds):
        for at, subject in enumerate((small, large)):
            resumes[at].append(await rate(subject.resume, window_s))
            appends[at].append(await rate(subject.append, window_s))
    medians = [[statistics.median(of) for of in both] for both in (appends, resumes)]
    emit(
        "ten_million",
        append_share=round(medians[0][1] / medians[0][0], 3),
        resume_share=round(medians[1][1] / medians[1][0], 3),
        append_records_per_s=round(medians[0][1] * BATCH),
        append_records_per_s_empty=round(medians[0][0] * BATCH),
        resume_us=round(1e6 / medians[1][1], 1),
        resume_us_empty=round(1e6 / medians[1][0], 1),
        fill_records_per_s=round(records / fill_s),
        records=large.number - 1,
    )
    for subject in (small, large):
        await subject.reader.aclose()
        await subject.writer.aclose()


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    if args.quick:
        asyncio.run(measure(args.scratch, 200_000, 0.5, 1))
    else:
        asyncio.run(measure(args.scratch, 10_000_000, 10.0, 3))
