"""From `publish()` in a worker, through a server and its disk, to 100 subscribers: 1 000 events a second.

Some of the subscribers are watched, and read as soon as something comes. A process that did so with all of
them would be asked for 100 000 reads a second, and measure itself: the others are read now and then, and
must have got everything all the same.
"""

import asyncio
import contextlib
import select
import subprocess
import sys
import time

from benchmarks import disk
from benchmarks.measure import arguments, emit, percentile
from benchmarks.served import serving
from benchmarks.sse_client import QUIET_S_MAX, Connection, Crowd, receive
from runstream import publish, start_run

SUBSCRIBERS = 100
# Those whose times are taken, and how long the others may wait to be read.
WATCHED = 5
OTHERS_S = 0.02
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


class Watched:
    """A subscriber whose times are taken."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._rest = b""

    def take(self, times: list[float]) -> int:
        """What just came, each with its age in ms; how many that are."""
        data = receive(self.connection.socket)
        now = time.time_ns()
        whole, end, self._rest = (self._rest + data).rpartition(b"\n\n")
        parts = (whole + end).split(b'"data":{"t":')[1:]
        times += [(now - int(part[: part.index(b"}")])) / 1e6 for part in parts]
        return len(parts)


def follow(crowd: list[Connection], count: int) -> list[float]:
    """Read until everyone has `count` events; the ages of those that the watched ones got."""
    watched = {one.socket.fileno(): Watched(one) for one in crowd[:: len(crowd) // WATCHED]}
    others = [one for one in crowd if one.socket.fileno() not in watched]
    looking = select.epoll()
    for fd in watched:
        looking.register(fd, select.EPOLLIN)
    times: list[float] = []
    left = len(crowd) * count
    read_at = time.monotonic()
    deadline = read_at + QUIET_S_MAX
    while left > 0:
        for fd, _ in looking.poll(OTHERS_S):
            left -= watched[fd].take(times)
        now = time.monotonic()
        if now > deadline:
            raise SystemExit(f"{left} frames did not come")
        if now >= read_at:
            read_at = now + OTHERS_S
            for connection in others:
                with contextlib.suppress(BlockingIOError):
                    left -= connection.take(receive(connection.socket))
    looking.close()
    return times


def measure(url: str, port: int, seconds: float) -> list[float]:
    command = [sys.executable, "-m", "benchmarks.ours.sse_latency", "--work", url, str(seconds)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        assert worker.stdin is not None
        worker.stdout.readline()
        crowd = Crowd(port, f"/v1/runs/{RUN}/events", SUBSCRIBERS)
        crowd.wait_for_streams()
        worker.stdin.write(b"go\n")
        worker.stdin.flush()
        times = follow(list(crowd.by_fd.values()), int(seconds * EVENTS_PER_S))
        crowd.close()
    return times


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    seconds = 1.0 if args.quick else 8.0
    with serving(f"sqlite:{args.scratch / 'events.db'}") as served:
        times = measure(served.url, served.port, seconds)
    warm = times[WATCHED * EVENTS_PER_S // 4 :]
    emit(
        "sse_latency",
        p50_ms=round(percentile(warm, 50), 2),
        p99_ms=round(percentile(warm, 99), 2),
        sent=int(seconds * EVENTS_PER_S),
        received=len(times) // WATCHED,
        **disk.probe(args.scratch),
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--work"]:
        asyncio.run(work(sys.argv[2], float(sys.argv[3])))
    else:
        main()
