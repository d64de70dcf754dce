"""One subscriber among a thousand reads nothing: what the others get, as a share of what they got before.

It asks for a history that is larger than what the kernel takes for it, so that the server really has to
wait for it.
"""

import re
import time
import urllib.request
from statistics import median

from benchmarks.measure import arguments, emit
from benchmarks.served import Served, serving
from benchmarks.sse_client import Connection, Crowd, Publisher, fan_out

SUBSCRIBERS = 1000
RUN = "run"
BATCH = 16
PATH = f"/v1/runs/{RUN}/events"
# About 12 MB of frames; the kernel takes 4 to 6.
HISTORY_BATCHES = 100
HISTORY_BATCH = 500
STALLED_S_MAX = 30.0
# So many even out what else the machine does.
PAIRS = 5
LAG = re.compile(rb"^runstream_subscriber_lag_records_max (\S+)", re.MULTILINE)


def lag(served: Served) -> float:
    """How far the slowest subscriber is behind."""
    with urllib.request.urlopen(f"{served.url}/metrics") as answer:
        found = LAG.search(answer.read())
    assert found is not None
    return float(found[1])


def stall(served: Served) -> tuple[Connection, float]:
    """A subscriber that reads nothing, when the server can send it no more; and how far it is behind."""
    connection = Connection(served.port, PATH, receive_bytes=4096)
    deadline = time.monotonic() + STALLED_S_MAX
    before, behind = -1.0, 0.0
    while behind == 0 or behind != before:
        if time.monotonic() > deadline:
            raise SystemExit("the server never had to wait for it")
        time.sleep(0.3)
        before, behind = behind, lag(served)
    return connection, behind


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    batches = 20 if args.quick else 100
    before: list[float] = []
    beside: list[float] = []
    behind = 0.0
    with serving("memory:") as served:
        publisher = Publisher(served.port, RUN)
        for _ in range(HISTORY_BATCHES):
            publisher.send(HISTORY_BATCH)
            publisher.take_answer()
        first_seq = HISTORY_BATCHES * HISTORY_BATCH + 1
        crowd = Crowd(served.port, f"{PATH}?from_seq={first_seq}", SUBSCRIBERS)
        crowd.wait_for_streams()
        fan_out(publisher, crowd, 5, BATCH, SUBSCRIBERS)
        for number in range(2 * PAIRS):
            # In turn, so that a busy minute hits both: with the one that reads nothing, and without.
            stalled = None
            if number % 2:
                stalled, behind = stall(served)
            # (After a pause, as the one before, a machine takes a while to reach its speed.)
            fan_out(publisher, crowd, batches, BATCH, SUBSCRIBERS)
            per_s = fan_out(publisher, crowd, batches, BATCH, SUBSCRIBERS)
            if stalled is None:
                before.append(per_s)
                continue
            beside.append(per_s)
            if lag(served) <= behind:
                raise SystemExit("it was not stalled to the end")
            stalled.socket.close()
        crowd.close()
    emit(
        "sse_stalled",
        share=round(median(beside) / median(before), 3),
        deliveries_per_s=round(median(beside)),
        behind=round(behind),
    )


if __name__ == "__main__":
    main()
