"""Five thousand subscribers that have nothing to read: what each costs, and what the heartbeats cost."""

import time
from pathlib import Path

from benchmarks.measure import arguments, emit
from benchmarks.served import Served, serving
from benchmarks.sse_client import Crowd, Publisher

RUN = "idle"


def rss_kib(served: Served) -> int:
    status = Path(f"/proc/{served.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0])


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    subscribers, seconds = (500, 2.0) if args.quick else (5000, 45.0)
    with serving("memory:") as served:
        # Also creates the run. The server soon closes a connection on which nobody asks anything.
        Publisher(served.port, RUN).socket.close()
        few = Crowd(served.port, f"/v1/runs/{RUN}/events", 50)
        few.wait_for_streams()
        before_kib = rss_kib(served)
        crowd = Crowd(served.port, f"/v1/runs/{RUN}/events", subscribers)
        crowd.wait_for_streams()
        after_kib = rss_kib(served)
        cpu_s = served.cpu_s()
        # Three heartbeats.
        time.sleep(seconds)
        busy = (served.cpu_s() - cpu_s) / seconds
        publisher = Publisher(served.port, RUN)
        publisher.send(1)
        publisher.take_answer()
        crowd.read(subscribers)
        crowd.close()
        few.close()
    emit(
        "sse_idle",
        subscriber_kib=round((after_kib - before_kib) / subscribers, 1),
        core_share=round(busy, 4),
    )


if __name__ == "__main__":
    main()
