"""Publishing to a server: events of 150 bytes in our client, until all of them are durable there."""

import asyncio
import time

from benchmarks import disk
from benchmarks.measure import arguments, emit
from benchmarks.served import serving
from runstream import drain, publish, publisher_stats, start_run

# With its kind and braces an event is 150 bytes in the body.
EVENT = {"text": "x" * 102, "index": 12345}


async def measure(url: str, count: int) -> tuple[float, int]:
    async with start_run("client_ingest", url=url, overflow="block"):
        await drain()
        begin = time.perf_counter()
        for place in range(count):
            publish(EVENT, kind="token")
            if place % 100 == 0:
                await asyncio.sleep(0)
        await drain()
        took = time.perf_counter() - begin
        return count / took, publisher_stats().dropped


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    count = 20_000 if args.quick else 400_000
    with serving(f"sqlite:{args.scratch / 'events.db'}") as served:
        asyncio.run(measure(served.url, 10_000))
        cpu_s, begin, ours_s = served.cpu_s(), time.perf_counter(), time.process_time()
        events_per_s, dropped = asyncio.run(measure(served.url, count))
        busy = (served.cpu_s() - cpu_s) / (time.perf_counter() - begin)
    emit(
        "client_ingest",
        events_per_s=round(events_per_s),
        sent=count,
        received=count - dropped,
        server_cores=round(busy, 2),
        client_us=round((time.process_time() - ours_s) / count * 1e6, 2),
        **disk.probe(args.scratch),
    )


if __name__ == "__main__":
    main()
