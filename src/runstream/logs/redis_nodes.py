"""Which Redis server a key belongs to: one server, or the nodes of a cluster.

Two lines to each server: one for writes, one for reads, so that a long page of history never stands in
front of an append.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from typing import Any, Final, Literal, cast
from urllib.parse import unquote, urlsplit

import msgspec
from redis.asyncio.connection import Connection, SSLConnection
from redis.crc import key_slot
from redis.exceptions import RedisError

from ..errors import InvalidURL, RunstreamError
from . import with_secrets_hidden
from .redis_line import CONNECT_S_MAX, Call, Line, MakeCommand
from .redis_server import Server, Wire, ask, hang_up

PORT: Final = 6379
_DB: Final = re.compile(r"[0-9]{1,4}", re.ASCII)

Use = Literal["write", "read"]

# Between two looks at a cluster's map: it is looked at when a node is gone, and takes a while to change.
MAP_PAUSE_S: Final = 0.2


class Address(msgspec.Struct, frozen=True):
    """Where a Redis is, and how to get in. Its text shows no secret."""

    host: str
    port: int
    db: int = 0
    username: str | None = None
    password: str | None = None
    tls: bool = False
    # A file of certificates to trust, beside or instead of the system's.
    ca_file: str | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Redis {self}/{self.db}>"

    @staticmethod
    def parse(url: str, ca_file: str | None) -> Address:
        """Of a URL without its options. Raises InvalidURL."""
        hidden = with_secrets_hidden(url)
        try:
            parts = urlsplit(url)
            host, port, db = parts.hostname, parts.port, parts.path.strip("/")
        except ValueError:
            # (Its message may hold what stands before the host.)
            raise InvalidURL(f"not a Redis URL: {hidden!r}") from None
        if not host or (db and not _DB.fullmatch(db)):
            raise InvalidURL(
                "a Redis URL names a host, and a database by its number: redis://127.0.0.1:6379/0, "
                f"not {hidden!r}"
            )
        return Address(
            host=host,
            port=port or PORT,
            db=int(db or 0),
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            tls=parts.scheme == "rediss",
            ca_file=ca_file,
        )

    def connection(self) -> Wire:
        """A connection that is not made yet."""
        options: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "db": self.db,
            "username": self.username,
            "password": self.password,
            "protocol": 2,
            "socket_connect_timeout": CONNECT_S_MAX,
            # Whoever uses it watches the time. (The driver would wait in a way that, in Python 3.11, may
            # swallow a cancellation.)
            "socket_timeout": None,
            "client_name": "runstream",
            # Appends are small, and wait for each other.
            "socket_keepalive": True,
        }
        if self.tls:
            return cast(Wire, SSLConnection(ssl_ca_certs=self.ca_file, **options))
        return cast(Wire, Connection(**options))


class Nodes:
    """Calls go to the server that has their key. All in one event loop."""

    def __init__(self, address: Address) -> None:
        self._seed = address
        self._lines: dict[tuple[str, Use], Line] = {}
        # Of a cluster: the first and last slot of a range, and the address of its master.
        self._ranges: list[tuple[int, int, str]] = []
        self._moved: dict[int, str] = {}
        self._looking: asyncio.Task[None] | None = None
        self._closed = False
        self._turn = -1
        self.server: Server | None = None

    @property
    def is_cluster(self) -> bool:
        return bool(self._ranges)

    async def connect(self) -> Server:
        """Meet the server of the URL. Raises what is wrong with it, or with the URL."""
        line = self._line(str(self._seed), "write")
        self.server = await line.connect()
        if self.server.is_cluster:
            await self._load_map()
        return self.server

    def some_connection(self) -> Wire:
        """A new connection to some node, another one each time: one of them may be gone."""
        self._turn += 1
        known = self._known()
        return self._address_of(known[self._turn % len(known)]).connection()

    def _known(self) -> list[str]:
        addresses = (address for _, _, address in self._ranges)
        return list(dict.fromkeys([str(self._seed), *addresses]))

    async def call(self, key: str, make: MakeCommand, use: Use = "write") -> Any:
        """The reply to a command on that key. Raises LogUnavailable, LogClosed."""
        call = Call(make, key_slot(key.encode()) if self._ranges else 0)
        self._send(call, use)
        return await call.done

    async def command(self, *words: str | bytes | int, key: str, use: Use = "read") -> Any:
        """The reply to a plain command."""
        return await self.call(key, lambda _server, _until: words, use)

    async def close(self, within_s: float) -> None:
        """Finish what waits, or refuse it after that time."""
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)
        await asyncio.gather(*(line.close(within_s) for line in self._lines.values()))

    def _send(self, call: Call, use: Use) -> None:
        self._line(self._owner(call.slot), use).add(call)

    def _owner(self, slot: int) -> str:
        moved = self._moved.get(slot)
        if moved is not None:
            return moved
        for first, last, address in self._ranges:
            if first <= slot <= last:
                return address
        return str(self._seed)

    def _line(self, address: str, use: Use) -> Line:
        line = self._lines.get((address, use))
        if line is None:

            def moved(call: Call, to: str) -> None:
                if not call.asking:
                    self._moved[call.slot] = to
                self._line(to, use).add(call)

            place = self._address_of(address)
            line = Line(address, place.connection, moved, self._look)
            self._lines[address, use] = line
        return line

    def _address_of(self, address: str) -> Address:
        host, _, port = address.rpartition(":")
        return msgspec.structs.replace(self._seed, host=host or self._seed.host, port=int(port))

    def _look(self) -> None:
        """A node is gone: see who has its slots now."""
        if self._ranges and not self._closed and (self._looking is None or self._looking.done()):
            self._looking = asyncio.ensure_future(self._look_again())

    async def _look_again(self) -> None:
        await asyncio.sleep(MAP_PAUSE_S)
        await self._load_map()
        for (_, use), line in list(self._lines.items()):
            for call in line.take_waiting():
                self._send(call, use)

    async def _load_map(self) -> None:
        """Ask whichever node answers which slots each of them has."""
        for address in self._known():
            place = self._address_of(address)
            connection = place.connection()
            try:
                async with asyncio.timeout(CONNECT_S_MAX):
                    await connection.connect()
                    ranges = _ranges(await ask(connection, "CLUSTER", "SLOTS"), place.host)
            except (RedisError, RunstreamError, OSError):
                continue
            finally:
                await hang_up(connection)
            if ranges:
                self._ranges = ranges
                self._moved.clear()
                return


def _ranges(slots: Sequence[Any], host: str) -> list[tuple[int, int, str]]:
    # A node that does not know its own address leaves it out: it is the one that was asked.
    return [
        (first, last, f"{(master[0] or b'').decode() or host}:{master[1]}")
        for first, last, master, *_ in slots
    ]
