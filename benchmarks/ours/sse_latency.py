"""From `publish()` in a worker, through a server and its disk, to 100 subscribers: 1 000 events a second."""

import asyncio
import subprocess
import sys
import time

from benchmarks import disk
from benchmarks.measure import arguments, emit, percentile
from benchmarks.served import serving
from benchmarks.sse_client import Connection, Crowd
from runstream import publish, start_run

SUBSCRIBERS = 100
RUN = "paced"
EVENTS_PER_S = 1000


async def work(url: str, seconds: float) -> None:
    """The worker: it publishes at an even pace, and is late rather than in bursts."""
    async with start_run(RUN, run_id=RUN, url=url):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        began = time.perf_counter()
        for number in range(int(seconds * EVENTS_PER_S)):
            late = began + number / EVENTS_PER_S - time.perf_counter()
            if late > 0:
                await asyncio.sleep(late)
            publish({"t": time.time_ns()}, kind="token")


def take_watched(watched: Connection, times: list[float]) -> None:
    """What the watched subscriber just got, each with its age in ms."""
    now = time.time_ns()
    text = b"".join(watched.kept or [])
    watched.kept = []
    times += [
        (now - int(part[: part.index(b"}")])) / 1e6 for part in text.split(b'"data":{"t":')[1:]
    ]


def measure(url: str, port: int, seconds: float) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.ours.sse_latency", "--work", url, str(seconds)]
    times: list[float] = []
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdin is not None
        worker.stdout.readline()
        crowd = Crowd(port, f"/v1/runs/{RUN}/events", SUBSCRIBERS)
        watched = next(iter(crowd.by_fd.values()))
        crowd.wait_for_streams()
        watched.kept = []
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
        crowd.read(
            int(seconds * EVENTS_PER_S) * SUBSCRIBERS, after=lambda: take_watched(watched, times)
        )
        crowd.close()
    return times


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    seconds = 1.0 if args.quick else 8.0
    with serving(f"sqlite:{args.scratch / 'events.db'}") as served:
        times = measure(served.url, served.port, seconds)
    warm = times[EVENTS_PER_S // 4 :]
    emit(
        "sse_latency",
        p50_ms=round(percentile(warm, 50), 2),
        p99_ms=round(percentile(warm, 99), 2),
        sent=int(seconds * EVENTS_PER_S),
        received=len(times),
        **disk.probe(args.scratch),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        asyncio.run(work(sys.argv[2], float(sys.argv[3])))
    else:
        main()
