"""Catching up with a server: a stored history over HTTP, as `Record` objects in our client."""

import asyncio
import time
from pathlib import Path

from benchmarks.measure import arguments, emit, max_rss_mib
from benchmarks.served import serving
from runstream import connect, process, publish, start_run


async def write(url: str, count: int) -> str:
    """A finished run of that many records, written without a server."""
    async with start_run("client_catch_up", url=url, overflow="block") as run:
        for index in range(count):
            publish({"text": "token", "index": index}, kind="token", correlation_id="gen-1")
    return run.run_id


async def measure(url: str, run_id: str, count: int) -> None:
    rounds: list[float] = []
    cpu_s = time.process_time()
    async with connect(url) as streams:
        for _ in range(3):
            begin = time.perf_counter()
            received, in_order = 0, True
            async for record in streams.subscribe(run_id):
                received += 1
                in_order = in_order and record.seq == received
            rounds.append(received / (time.perf_counter() - begin))
    emit(
        "client_catch_up",
        records_per_s=round(sorted(rounds)[1]),
        sent=count + 2,
        received=received,
        in_order=in_order,
        client_us=round((time.process_time() - cpu_s) / 3 / received * 1e6, 2),
        max_rss_mib=max_rss_mib(),
    )


def main(scratch: Path, count: int) -> None:
    stored = f"sqlite:{scratch / 'events.db'}"
    run_id = asyncio.run(write(stored, count))
    process.close_publishers()
    with serving(stored) as served:
        asyncio.run(measure(served.url, run_id, count))


if __name__ == "__main__":
    args = arguments(__doc__ or "").parse_args()
    main(args.scratch, 100_000 if args.quick else 1_000_000)
