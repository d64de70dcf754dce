"""A TCP proxy between a log and its engine, for what networks do: cut connections, lose replies, hang."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

_PART_BYTES = 65536


class Proxy:
    """Passes bytes on between its own `port` and the engine's, until it is told otherwise."""

    def __init__(self, engine_port: int) -> None:
        self.port = 0
        # How many connections clients have made, and how many are open.
        self.accepted = 0
        self.open = 0
        # Set when a reply was swallowed, as `lose_reply_to` asked.
        self.lost = asyncio.Event()
        self._engine_port = engine_port
        self._marker: bytes | None = None
        self._refusing = False
        self._cuts = 0
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._links: set[_Link] = set()

    def lose_reply_to(self, marker: bytes) -> None:
        """The next request that contains `marker` reaches the engine; its reply is swallowed, and then
        the connection is cut. (A marker in the first 64 KiB of the request, without line breaks.)
        """
        self.lost.clear()
        self._marker = marker

    def cut(self) -> None:
        """Reset every connection there is; new ones are accepted."""
        self._cuts += 1
        for link in list(self._links):
            link.cut()

    def refuse(self) -> None:
        """Cut every connection, and the new ones too, until `accept()`: the engine cannot be reached."""
        self._refusing = True
        self.cut()

    def accept(self) -> None:
        """Pass new connections on again."""
        self._refusing = False

    def hold(self) -> None:
        """Keep connections, but pass nothing on until `flow()`: a network that hangs."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass on what was held, and what comes."""
        self._flowing.set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client."""
        self.accepted += 1
        if self._refusing:
            writer.transport.abort()
            return
        cuts = self._cuts
        try:
            theirs = await asyncio.open_connection("127.0.0.1", self._engine_port)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, theirs[1])
        if cuts != self._cuts:  # meanwhile
            link.cut()
            return
        self._links.add(link)
        self.open += 1
        try:
            # Whichever side ends first ends the other.
            pumps = {
                asyncio.ensure_future(self._pump(link, reader, theirs[1], asks=True)),
                asyncio.ensure_future(self._pump(link, theirs[0], writer, asks=False)),
            }
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            link.cut()
            self._links.discard(link)
            self.open -= 1

    async def _pump(
        self,
        link: _Link,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        *,
        asks: bool,
    ) -> None:
        with contextlib.suppress(OSError):
            while part := await source.read(_PART_BYTES):
                await self._flowing.wait()
                if asks and self._marker is not None and self._marker in part:
                    self._marker = None
                    link.loses_reply = True
                elif not asks and link.loses_reply:
                    self.lost.set()
                    link.cut()
                    return
                target.write(part)
                await target.drain()


class _Link:
    """One client's connection and the engine's."""

    def __init__(self, client: asyncio.StreamWriter, engine: asyncio.StreamWriter) -> None:
        self._writers = (client, engine)
        self.loses_reply = False

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@asynccontextmanager
async def proxy_to(engine_port: int) -> AsyncGenerator[Proxy]:
    """A proxy in this event loop, for the time of the block."""
    proxy = Proxy(engine_port)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = int(server.sockets[0].getsockname()[1])
    try:
        yield proxy
    finally:
        server.close()
        proxy.refuse()
        await server.wait_closed()
