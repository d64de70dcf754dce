"""Typed events published in one run, stored in SQLite with FULL sync, received by one subscriber.

The subscriber runs in the producer's loop, as the peer's does, and gets `Record` objects in order.
"""

import asyncio
import time

from benchmarks.measure import arguments, emit, max_rss_mib
from runstream import Event, connect, publish, start_run


class Token(Event, kind="token"):
    """What the peer's burst writes too."""

    index: int
    text: str


async def measure(url: str, count: int, yield_every: int) -> None:
    async with connect(url) as streams, start_run("burst", url=url) as run:

        async def receive() -> tuple[int, bool, float]:
            received, in_order = 0, True
            async for record in streams.subscribe(run.run_id):
                if record.kind == "token":
                    in_order = in_order and record.seq == received + 2
                    received += 1
                    if received == count:
                        break
            return received, in_order, time.perf_counter()

        receiver = asyncio.create_task(receive())
        await asyncio.sleep(0)
        first = time.perf_counter()
        for index in range(count):
            publish(Token(index=index, text="token"))
            if yield_every and (index + 1) % yield_every == 0:
                await asyncio.sleep(0)
        received, in_order, last = await receiver
    emit(
        f"burst_{yield_every}",
        events_per_s=round(count / (last - first)),
        sent=count,
        received=received,
        in_order=in_order,
        max_rss_mib=max_rss_mib(),
    )


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--yield-every", type=int, choices=(0, 1, 100), default=0)
    args = parser.parse_args()
    url = f"sqlite:{args.scratch / 'events.db'}"
    asyncio.run(measure(url, 10_000 if args.quick else 100_000, args.yield_every))
