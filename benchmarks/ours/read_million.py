"""Reading stored records as `Record` objects; data stays encoded until it is asked for."""

import asyncio
import time

from benchmarks.measure import arguments, emit, max_rss_mib
from runstream import connect, publish, start_run


async def measure(url: str, count: int) -> None:
    async with start_run("read_million", url=url) as run:
        for index in range(count):
            publish({"text": "token", "index": index}, kind="token", correlation_id="gen-1")
    rounds: list[float] = []
    async with connect(url) as streams:
        for _ in range(3):
            begin = time.perf_counter()
            received = 0
            async for record in streams.subscribe(run.run_id, follow=False):
                received += 1
                assert record.seq == received
            rounds.append(received / (time.perf_counter() - begin))
    emit(
        "read_million",
        records_per_s=round(sorted(rounds)[1]),
        sent=count + 2,
        received=received,
        max_rss_mib=max_rss_mib(),
    )


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    url = f"sqlite:{args.scratch / 'events.db'}"
    asyncio.run(measure(url, 100_000 if args.quick else 1_000_000))
