"""From `publish()` to a subscriber in the same process: one record a millisecond, FULL sync."""

import asyncio
import time

from benchmarks.disk import probe
from benchmarks.measure import arguments, emit, percentile
from runstream import connect, publish, start_run

INTERVAL_S = 0.001


async def measure(url: str, count: int) -> dict[str, object]:
    latencies: list[float] = []
    async with connect(url) as streams, start_run("paced_latency", url=url) as run:

        async def receive() -> None:
            async for record in streams.subscribe(run.run_id, kinds="token"):
                latencies.append((time.perf_counter() - record.data["sent"]) * 1000)
                if len(latencies) == count:
                    return

        receiver = asyncio.create_task(receive())
        begin = time.perf_counter()
        for index in range(count):
            await asyncio.sleep(max(begin + index * INTERVAL_S - time.perf_counter(), 0))
            publish({"sent": time.perf_counter()}, kind="token")
        await receiver
    return {
        "p50_ms": round(percentile(latencies, 50), 3),
        "p99_ms": round(percentile(latencies, 99), 3),
        "sent": count,
        "received": len(latencies),
    }


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    result = asyncio.run(
        measure(f"sqlite:{args.scratch / 'events.db'}", 1000 if args.quick else 10_000)
    )
    emit("paced_latency", **result, **probe(args.scratch))
