"""A subscriber falls 100 000 records behind while the producer goes on: memory, and nothing lost."""

import asyncio
import resource
import time
from pathlib import Path

from benchmarks.measure import arguments, emit, max_rss_mib
from runstream import connect, drain, publish, start_run

PAYLOAD = {"text": "x" * 100}


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1024 / 1024


async def measure(url: str, behind: int, total: int) -> None:
    async with connect(url) as streams, start_run("slow_subscriber", url=url) as run:
        for _ in range(2000):
            publish(PAYLOAD)
        await drain()
        before = rss_mib()
        subscription = streams.subscribe(run.run_id)
        first = await anext(subscription)  # it has begun, and now it does not read
        for _ in range(behind):
            publish(PAYLOAD)
        await drain()
        received, in_order, seq = 1, True, first.seq
        producer = asyncio.create_task(go_on(total - behind))
        begin = time.perf_counter()
        async for record in subscription:
            in_order = in_order and record.seq == seq + 1
            seq = record.seq
            received += 1
            if received == total + 2001:
                break
        took = time.perf_counter() - begin
        await producer
        growth = rss_mib() - before
    emit(
        "slow_subscriber",
        lost=total + 2001 - received,
        rss_growth_mib=round(growth, 1),
        max_rss_mib=max_rss_mib(),
        catch_up_records_per_s=round(received / took),
        sent=total + 2001,
        received=received,
        in_order=in_order,
    )


async def go_on(count: int) -> None:
    for n in range(count):
        publish(PAYLOAD)
        if n % 100 == 0:
            await asyncio.sleep(0)


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    url = f"sqlite:{args.scratch / 'events.db'}"
    if args.quick:
        asyncio.run(measure(url, 10_000, 20_000))
    else:
        asyncio.run(measure(url, 100_000, 200_000))
