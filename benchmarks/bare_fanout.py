"""The floor under a fan-out: a bare `asyncio.Protocol` that writes ready frames of the same size.

A subscriber asks with GET; a POST has every subscriber written as many frames as it brings events, in one
write. Nothing is stored, parsed or waited for. ``python -m benchmarks.bare_fanout PORT``
"""

import asyncio
import sys

FRAME = (
    b'id: 183c0c01edbd.1234\nevent: token\ndata: {"seq":1234,"time":"2026-11-21T10:41:52.599460Z",'
    b'"run_id":"run","kind":"token","data":{"text":"%b"},"correlation_id":"gen-42"}\n\n'
    % (b"x" * 60)
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
START = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENT = b'{"kind"'

subscribers: list[asyncio.Transport] = []


class Bare(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET"):
            self.transport.write(START)
            subscribers.append(self.transport)
            return
        count = data.count(EVENT)
        if count:
            body = FRAME * count
            chunk = b"%x\r\n%b\r\n" % (len(body), body)
            for transport in subscribers:
                transport.write(chunk)
        self.transport.write(ANSWER)


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Bare, "127.0.0.1", int(sys.argv[1]), backlog=2048)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
