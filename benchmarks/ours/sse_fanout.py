"""A thousand subscribers of one run: how many frames a second reach them, beside a bare protocol."""

from benchmarks.measure import arguments, emit
from benchmarks.served import Served, serving, serving_module
from benchmarks.sse_client import Crowd, Publisher, fan_out

SUBSCRIBERS = 1000
RUN = "run"
# What a producer sends at once while more comes than can be fanned out one by one.
BATCH = 16


def measure(served: Served, batches: int, size: int) -> tuple[float, float, bool]:
    """Frames per second, the server's µs of CPU for each, and whether one subscriber got them in order."""
    publisher = Publisher(served.port, RUN)
    crowd = Crowd(served.port, f"/v1/runs/{RUN}/events", SUBSCRIBERS)
    watched = next(iter(crowd.by_fd.values()))
    watched.kept = []
    try:
        crowd.wait_for_streams()
        fan_out(publisher, crowd, 3, size, SUBSCRIBERS)
        cpu_s = served.cpu_s()
        per_s = fan_out(publisher, crowd, batches, size, SUBSCRIBERS)
        cpu_us = (served.cpu_s() - cpu_s) * 1e6 / (batches * size * SUBSCRIBERS)
        return per_s, cpu_us, watched.seqs() == list(range(1, (3 + batches) * size + 1))
    finally:
        crowd.close()


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    singles, batches = (10, 5) if args.quick else (100, 100)
    with serving("memory:") as served:
        single, single_cpu_us, in_order = measure(served, singles, 1)
    with serving("memory:") as served:
        batched, cpu_us, too = measure(served, batches, BATCH)
    with serving_module("benchmarks.bare_fanout") as served:
        bare_single, bare_single_cpu_us, _ = measure(served, singles, 1)
    with serving_module("benchmarks.bare_fanout") as served:
        bare_batched, bare_cpu_us, _ = measure(served, batches, BATCH)
    emit(
        "sse_fanout",
        deliveries_per_s=round(batched),
        share_of_bare=round(batched / bare_batched, 2),
        single_per_s=round(single),
        single_share_of_bare=round(single / bare_single, 2),
        cpu_us=round(cpu_us, 2),
        bare_cpu_us=round(bare_cpu_us, 2),
        single_cpu_us=round(single_cpu_us, 2),
        bare_single_cpu_us=round(bare_single_cpu_us, 2),
        in_order=in_order and too,
    )


if __name__ == "__main__":
    main()
