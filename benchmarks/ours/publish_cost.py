"""What `publish()` costs its caller: with room in the queue, and when it wakes an idle writer."""

import statistics
import time

from benchmarks.measure import arguments, call_us, emit
from runstream import flush, publish, start_run

PAYLOAD = {"token": "x" * 74, "index": 12345}


def measure(url: str, bursts: int, wakes: int) -> None:
    queued: list[float] = []
    woken: list[float] = []
    with start_run("publish_cost", url=url):

        def call() -> None:
            publish(PAYLOAD)

        for _ in range(bursts):
            queued += call_us(call, 1000)
            flush(10)
        for _ in range(wakes):
            time.sleep(0.001)
            woken += call_us(call, 1)
            flush(10)
    emit(
        "publish_cost",
        queued_us=round(statistics.median(queued), 3),
        queued_mean_us=round(statistics.mean(queued), 3),
        wake_us=round(statistics.median(woken), 3),
    )


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    few = args.quick
    measure(f"sqlite:{args.scratch / 'events.db'}", 5 if few else 50, 50 if few else 500)
