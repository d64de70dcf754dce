"""One subscriber among a thousand reads nothing: what the others get, as a share of what they got before."""

from benchmarks.measure import arguments, emit
from benchmarks.served import serving
from benchmarks.sse_client import Connection, Crowd, Publisher, fan_out

SUBSCRIBERS = 1000
RUN = "run"
BATCH = 16


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    batches = 20 if args.quick else 100
    path = f"/v1/runs/{RUN}/events"
    before: list[float] = []
    beside: list[float] = []
    with serving("memory:") as served:
        publisher = Publisher(served.port, RUN)
        crowd = Crowd(served.port, path, SUBSCRIBERS)
        crowd.wait_for_streams()
        fan_out(publisher, crowd, 5, BATCH, SUBSCRIBERS)
        stalled: Connection | None = None
        for number in range(6):
            # In turn, so that a busy minute hits both: with the one that reads nothing, and without.
            if number % 2:
                stalled = Connection(served.port, path, receive_bytes=4096)
            per_s = fan_out(publisher, crowd, batches, BATCH, SUBSCRIBERS)
            (beside if stalled else before).append(per_s)
            if stalled:
                stalled.socket.close()
                stalled = None
        crowd.close()
    emit(
        "sse_stalled",
        share=round(sorted(beside)[1] / sorted(before)[1], 3),
        deliveries_per_s=round(sorted(beside)[1]),
    )


if __name__ == "__main__":
    main()
