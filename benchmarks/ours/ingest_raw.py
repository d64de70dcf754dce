"""The server's limit of durable ingest: batches of 64 × 150 B on 8 connections, SQLite FULL.

The client writes requests that are ready, and reads no more of an answer than it must; each connection
has a run and a producer of its own, and one request under way.
"""

import asyncio
import http.client
import json
import time
from functools import partial

from benchmarks import disk
from benchmarks.measure import arguments, emit
from benchmarks.served import Served, serving

CONNECTIONS = 8
BATCH = 64
# With its kind and braces an event is 150 bytes in the body.
EVENT = '{"kind":"token","data":{"text":"%s","index":12345}}'
EVENT_BYTES = 150


def make_event() -> str:
    return EVENT % ("x" * (EVENT_BYTES - len(EVENT % "")))


class Sender(asyncio.Protocol):
    """One connection: the next batch goes out when the answer to the last one is in."""

    def __init__(self, run_id: str, until: float, port: int) -> None:
        self.run_id = run_id
        self.until = until
        self.number = 1
        self.answered = 0
        self.last_seq = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        events = ",".join([make_event()] * BATCH)
        # The number is padded with spaces, so that every request has the same length.
        head = f'{{"producer":{{"id":"p-{run_id}","epoch":0,"number":'
        tail = f'}},"events":[{events}]}}'
        length = len(head) + 10 + len(tail)
        self.before = (
            f"POST /v1/runs/{run_id}/events HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n"
            f"content-type: application/json\r\ncontent-length: {length}\r\n\r\n{head}"
        ).encode()
        self.after = tail.encode()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.transport.write(b"%b%10d%b" % (self.before, self.number, self.after))

    def data_received(self, data: bytes) -> None:
        # An answer is some 200 bytes: it comes in one piece over loopback.
        if not data.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(SystemExit(f"the server answered {data!r}"))
            return
        answer = json.loads(data[data.index(b"\r\n\r\n") :])
        if answer["first_seq"] != self.last_seq + 1:
            self.done.set_exception(SystemExit(f"lost or doubled: {answer}"))
            return
        self.last_seq = answer["last_seq"]
        self.number += BATCH
        self.answered += BATCH
        if time.perf_counter() < self.until:
            self.send()
        elif not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(SystemExit(f"the server hung up: {exc}"))


async def saturate(served: Served, runs: list[str], seconds: float) -> float:
    """Events stored per second."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    until = began + seconds
    senders: list[Sender] = []
    for run_id in runs:
        _, sender = await loop.create_connection(
            partial(Sender, run_id, until, served.port), "127.0.0.1", served.port
        )
        senders.append(sender)
    await asyncio.gather(*(sender.done for sender in senders))
    took = time.perf_counter() - began
    for sender in senders:
        sender.transport.close()
    return sum(sender.answered for sender in senders) / took


def open_runs(served: Served, names: list[str]) -> None:
    line = http.client.HTTPConnection("127.0.0.1", served.port)
    for name in names:
        line.request(
            "PUT", f"/v1/runs/{name}", '{"workflow":"w"}', {"content-type": "application/json"}
        )
        line.getresponse().read()
    line.close()


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    seconds = 0.5 if args.quick else 4.0
    with serving(f"sqlite:{args.scratch / 'events.db'}") as served:
        warm = [f"warm-{number}" for number in range(CONNECTIONS)]
        runs = [f"run-{number}" for number in range(CONNECTIONS)]
        open_runs(served, warm + runs)
        asyncio.run(saturate(served, warm, 0.5))
        cpu_s = served.cpu_s()
        events_per_s = asyncio.run(saturate(served, runs, seconds))
        busy = (served.cpu_s() - cpu_s) / seconds
    emit(
        "ingest_raw",
        events_per_s=round(events_per_s),
        server_cores=round(busy, 2),
        **disk.probe(args.scratch),
    )


if __name__ == "__main__":
    main()
