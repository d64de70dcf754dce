"""Publishing to a server: events of 150 bytes in our client, until all of them are durable there."""

import asyncio
import os
import time

from benchmarks import disk
from benchmarks.measure import arguments, emit
from benchmarks.served import serving
from runstream import drain, process, publish, publisher_stats, start_run

# With its kind and braces an event is 150 bytes in the body.
EVENT = {"text": "x" * 102, "index": 12345}


async def measure(url: str, count: int) -> float:
    """Events a second."""
    async with start_run("client_ingest", url=url, overflow="block"):
        await drain()
        begin = time.perf_counter()
        for place in range(count):
            publish(EVENT, kind="token")
            if place % 100 == 0:
                await asyncio.sleep(0)
        await drain()
        return count / (time.perf_counter() - begin)


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    count = 20_000 if args.quick else 400_000
    with serving(f"sqlite:{args.scratch / 'events.db'}") as served:
        asyncio.run(measure(served.url, 10_000))
        cpu_s, begin, ours_s = served.cpu_s(), time.perf_counter(), time.process_time()
        events_per_s = asyncio.run(measure(served.url, count))
        busy = (served.cpu_s() - cpu_s) / (time.perf_counter() - begin)
        client_us = (time.process_time() - ours_s) / count * 1e6
        process.close_publishers()
        os.environ["RUNSTREAM_PUBLISH_BATCH_SIZE"] = "64"
        of_64_per_s = asyncio.run(measure(served.url, count // 2))
        stats = publisher_stats()
        process.close_publishers()
    # (Besides these the runs stored their starts and ends.)
    sent = 10_000 + count + count // 2
    emit(
        "client_ingest",
        events_per_s=round(events_per_s),
        of_64_per_s=round(of_64_per_s),
        sent=sent,
        received=min(stats.stored, sent) - stats.dropped,
        client_us=round(client_us, 2),
        server_cores=round(busy, 2),
        **disk.probe(args.scratch),
    )


if __name__ == "__main__":
    main()
