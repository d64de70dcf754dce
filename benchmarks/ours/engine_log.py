"""A log on an engine of its own (``--engine redis``): appends beside the engine's bare client, the way to
another process, catching up, and what an append costs when there are many streams.

The bare client and we write the same bytes in turn, in this one run: batches of 64, the next one when the
last one is acknowledged.
"""

import asyncio
import importlib
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

import msgspec

from benchmarks.measure import arguments, emit, max_rss_mib, percentile
from runstream.log import Log, Producer
from runstream.logs import open_log
from runstream.record import Cursor, Draft, make_draft

# What the engine's own client does alone: see `benchmarks.engines`.
Bare = Callable[[str, Sequence[Sequence[bytes]]], Awaitable[float]]

BATCH = 64
ROUNDS = 5
TEXT = "x" * 74


def drafts_of(run_id: str, first: int, count: int) -> list[Draft]:
    return [
        make_draft(run_id, "token", {"token": TEXT, "index": index})
        for index in range(first, first + count)
    ]


async def append(log: Log, run_id: str, batches: Iterable[list[Draft]]) -> float:
    """Seconds for the batches, one after the other, as one producer."""
    await log.open(run_id, producer=None, workflow="bench")
    begin = time.perf_counter()
    number = 1
    for batch in batches:
        await log.append(run_id, batch, producer=Producer("bench", 0, number))
        number += len(batch)
    return time.perf_counter() - begin


async def beside_bare(log: Log, url: str, bare: Bare, count: int) -> dict[str, float]:
    """Records a second, ours and the bare client's in turn; the share is the median of the rounds'."""
    ours: list[float] = []
    theirs: list[float] = []
    for round_ in range(ROUNDS):
        run_id = f"beside-{round_}"
        batches = [drafts_of(run_id, at, BATCH) for at in range(0, count, BATCH)]
        raw = [[msgspec.json.encode(draft) for draft in batch] for batch in batches]
        theirs.append(count / await bare(url, raw))
        ours.append(count / await append(log, run_id, batches))
    return {
        "append_per_s": round(statistics.median(ours)),
        "bare_append_per_s": round(statistics.median(theirs)),
        "append_share": round(
            statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 2
        ),
    }


async def to_other_process(log: Log, url: str, count: int) -> dict[str, float]:
    """Milliseconds from the call of `append` to a waiter in another process that has read the record."""
    await log.open("paced", producer=None, workflow="bench")
    program = [sys.executable, "-m", "benchmarks.ours.engine_log", "--follow", url]
    process = await asyncio.create_subprocess_exec(
        *program, str(count), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    await process.stdout.readline()
    for _ in range(count):
        await asyncio.sleep(0.01)
        await log.append("paced", [make_draft("paced", "tick", {"t": time.time_ns()})])
    out, _ = await process.communicate()
    late = msgspec.json.decode(out, type=list[float])
    return {
        "wake_p50_ms": round(percentile(late, 50), 2),
        "wake_p99_ms": round(percentile(late, 99), 2),
    }


async def follow(url: str, count: int) -> None:
    """The other process."""
    log = await asyncio.to_thread(open_log, url)
    print("ready", flush=True)
    after, late = 0, list[float]()
    while after < count:
        page = await log.read("paced", after=Cursor(None, after))
        now = time.time_ns()
        late += [(now - msgspec.json.decode(draft.data)["t"]) / 1e6 for draft in page.drafts]
        after += len(page.drafts)
        if not page.drafts:
            await log.wait("paced", after=after, timeout=10)
    print(msgspec.json.encode(late).decode())
    await log.aclose()


async def catch_up(log: Log, count: int) -> dict[str, float]:
    """Records a second of a reader that comes when all is written."""
    await append(log, "million", (drafts_of("million", at, 1000) for at in range(0, count, 1000)))
    begin = time.perf_counter()
    after = 0
    while (page := await log.read("million", after=Cursor(None, after))).drafts:
        after += len(page.drafts)
    assert after == count
    return {"catch_up_per_s": round(count / (time.perf_counter() - begin))}


async def among_many(full: Log, empty: Log, count: int) -> dict[str, float]:
    """What an append of 64 costs in a log of `count` streams, as a share of an empty log's speed: measured
    in turn, because a machine has moods.
    """

    async def fill(start: int) -> None:
        for place in range(start, count, 256):
            run_id = f"many-{place}"
            await full.open(run_id, producer=None, workflow=f"many-{place % 10}")
            await full.append(run_id, drafts_of(run_id, 0, 4), producer=Producer("p", 0, 1))

    begin = time.perf_counter()
    await asyncio.gather(*(fill(start) for start in range(256)))
    filled_s = time.perf_counter() - begin
    shares: list[float] = []
    for place in range(30):
        run_id = f"among-{place}"
        batches = [drafts_of(run_id, at, BATCH) for at in range(0, 1280, BATCH)]
        took = [await append(log, run_id, batches) for log in (empty, full)]
        shares.append(took[0] / took[1])
    return {
        "many_share": round(statistics.median(shares), 2),
        "streams": count,
        "opened_per_s": round(count / filled_s),
    }


async def measure(engine: str, url: str, empty_url: str, bare: Bare, *, quick: bool) -> None:
    few = 10 if quick else 1
    log = await asyncio.to_thread(open_log, url)
    empty = await asyncio.to_thread(open_log, empty_url)
    figures = await beside_bare(log, url, bare, 32_000 // few)
    figures |= await to_other_process(log, url, 500 // few)
    figures |= await catch_up(log, 1_000_000 // few)
    figures |= await among_many(log, empty, 100_000 // few)
    await log.aclose()
    await empty.aclose()
    emit(f"{engine}_log", **figures, max_rss_mib=max_rss_mib())


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--engine", default="redis")
    parser.add_argument("--follow", nargs=2, metavar=("URL", "COUNT"))
    args = parser.parse_args()
    if args.follow:
        asyncio.run(follow(args.follow[0], int(args.follow[1])))
    else:
        engine = importlib.import_module(f"benchmarks.engines.{args.engine}")
        folders = [args.scratch.absolute() / name for name in ("log", "empty")]
        for folder in folders:
            folder.mkdir()
        with engine.serving(folders[0]) as url, engine.serving(folders[1]) as empty_url:
            asyncio.run(measure(args.engine, url, empty_url, engine.bare, quick=args.quick))
