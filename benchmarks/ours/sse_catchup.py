"""One subscriber that reads a million stored records from a server, and only counts them."""

import asyncio
import socket
import time
from pathlib import Path

from benchmarks.measure import arguments, emit
from benchmarks.served import serving
from benchmarks.sse_client import READ_BYTES, TOKEN
from runstream import publish, start_run

RUN = "million"


async def fill(path: Path, count: int) -> None:
    async with start_run(RUN, run_id=RUN, url=f"sqlite:{path}"):
        for index in range(count):
            publish({"text": "token", "index": index}, kind="token", correlation_id="gen-1")


def read_raw(port: int) -> tuple[int, float]:
    """The tokens that came, and how many a second."""
    with socket.create_connection(("127.0.0.1", port)) as line:
        began = time.perf_counter()
        line.sendall(
            b"GET /v1/runs/%b/events HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: text/event-stream\r\n\r\n"
            % RUN.encode()
        )
        count, tail = 0, b""
        while b"event: stream.end" not in tail:
            part = line.recv(READ_BYTES)
            if not part:
                raise SystemExit("the server hung up")
            count += (tail[-len(TOKEN) + 1 :] + part).count(TOKEN)
            tail = (tail + part)[-200:]
        return count, count / (time.perf_counter() - began)


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    sent = 50_000 if args.quick else 1_000_000
    path = args.scratch / "events.db"
    asyncio.run(fill(path, sent))
    with serving(f"sqlite:{path}") as served:
        raw = sorted((read_raw(served.port) for _ in range(3)), key=lambda found: found[1])
    emit(
        "sse_catchup",
        records_per_s=round(raw[1][1]),
        sent=sent,
        received=min(count for count, _ in raw),
    )


if __name__ == "__main__":
    main()
