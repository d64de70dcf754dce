"""What a Redis server is and promises: read from it whenever a connection is made.

Its own settings decide what an acknowledged append survives. `Server.promise` says it in words.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

import msgspec
from redis.exceptions import (
    AuthenticationError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
    ResponseError,
)

from ..errors import InvalidURL, LogUnavailable, NotALog, RunstreamError
from .redis_scripts import SCRIPTS

# XTRIM … MINID, and scripts that are replicated by their effects.
VERSION_MIN: Final = (6, 2)

logger = logging.getLogger(__name__)


# A server that hangs takes no farewell.
HANG_UP_S_MAX: Final = 0.5


class Wire(Protocol):
    """What we use of the driver's connections, with the types that the driver leaves out."""

    async def connect(self) -> None: ...
    async def disconnect(self) -> None: ...
    def pack_commands(self, commands: Iterable[Sequence[str | bytes | int]]) -> list[bytes]: ...
    async def send_packed_command(
        self, command: list[bytes], check_health: bool = True
    ) -> None: ...
    async def send_command(self, *args: str | bytes | int, check_health: bool = True) -> None: ...
    async def read_response(
        self, *, timeout: float | None = None, disconnect_on_error: bool = True
    ) -> Any: ...


class Server(msgspec.Struct, frozen=True):
    """One server, in the life that it has now (`boot`)."""

    boot: str
    version: str
    is_cluster: bool
    # What an acknowledged append survives: a power cut, or less.
    is_durable: bool
    # Whether what it acknowledged in an earlier life, or another server in its place, is still there.
    is_trusted: bool
    promise: str
    # Its clock (µs since 1970) minus our monotonic one.
    clock_us: int

    def time_us(self, monotonic_s: float) -> int:
        """The server's clock at a moment of our monotonic one."""
        return self.clock_us + round(monotonic_s * 1_000_000)


async def hang_up(connection: Wire) -> None:
    """Close a connection, with the farewell of TLS if the other side takes it soon. Nothing is raised."""
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        async with asyncio.timeout(HANG_UP_S_MAX):
            await connection.disconnect()


async def ask(connection: Wire, *words: str | bytes) -> Any:
    """One command and its reply."""
    await connection.send_command(*words)
    return await connection.read_response()


async def meet(connection: Wire) -> Server:
    """Look at the server of a new connection, and give it our scripts.

    Raises:
        NotALog: something else than Redis, or a version that is too old.
        LogUnavailable: it cannot take writes now.
    """
    info = _parse(await ask(connection, "INFO"))
    version = info.get("redis_version", "")
    numbers = [int(number) for number in re.findall(r"\d+", version)[:2]]
    if not numbers:
        raise NotALog(f"no Redis: it answers INFO without a version ({version!r})")
    if tuple(numbers) < VERSION_MIN:
        raise NotALog(
            f"Redis {version} is too old for a log: it needs "
            f"{'.'.join(map(str, VERSION_MIN))} or newer, or Valkey"
        )
    if info.get("role") == "slave":
        raise LogUnavailable("this Redis is a replica, which takes no writes: name its master")
    if info.get("loading") == "1":
        raise LogUnavailable("Redis is still loading its data")
    sync = await _setting(connection, "appendfsync") if info.get("aof_enabled") == "1" else "off"
    evicts = info.get("maxmemory", "0") != "0" and info.get("maxmemory_policy", "") != "noeviction"
    is_cluster = info.get("cluster_enabled") == "1"
    before = time.monotonic()
    seconds, micros = await ask(connection, "TIME")
    now = (before + time.monotonic()) / 2
    loads = [("SCRIPT", "LOAD", script.text) for script in SCRIPTS]
    await connection.send_packed_command(connection.pack_commands(loads))
    for _ in loads:
        await connection.read_response()
    is_durable = sync == "always" and not evicts
    return Server(
        boot=info.get("run_id", ""),
        version=info.get("valkey_version") or version,
        is_cluster=is_cluster,
        is_durable=is_durable,
        is_trusted=is_durable and not is_cluster and info.get("connected_slaves", "0") == "0",
        promise=_promise(sync, evicts=evicts),
        clock_us=int(seconds) * 1_000_000 + int(micros) - round(now * 1_000_000),
    )


def _parse(text: Any) -> dict[str, str]:
    said = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    lines = [line.partition(":") for line in said.splitlines()]
    return {name: value for name, colon, value in lines if colon}


async def _setting(connection: Wire, name: str) -> str:
    """A setting, or "unknown" where the server does not tell (managed services)."""
    try:
        answer = await ask(connection, "CONFIG", "GET", name)
    except (NoPermissionError, ResponseError):
        return "unknown"
    return answer[1].decode() if len(answer) > 1 else "unknown"


def _promise(sync: str, *, evicts: bool) -> str:
    if evicts:
        return "it evicts keys when its memory is full (set maxmemory-policy noeviction)"
    return {
        "always": "an acknowledged append survives a power cut (appendfsync always)",
        "everysec": "a crash loses up to two seconds of acknowledged appends (appendfsync everysec)",
        "no": "a power cut loses what the system had not written yet (appendfsync no)",
        "off": "a crash loses what was appended since the last snapshot (appendonly no)",
    }.get(sync, "it does not tell whether it syncs its file (CONFIG GET appendfsync)")


def refusal(error: Exception, address: str) -> RunstreamError:
    """What an error at connecting means for whoever gave the URL."""
    said = str(error) or "no answer in time"
    match error:
        case RunstreamError():
            return error
        case AuthenticationError():
            return InvalidURL(f"Redis at {address} refuses the user name or password of the URL")
        case NoPermissionError():
            return InvalidURL(f"Redis at {address} does not let this user keep a log: {said}")
        case ResponseError() if "DB index" in said or "SELECT" in said:
            return InvalidURL(f"Redis at {address} has no such database: {said}")
        case InvalidResponse() | ResponseError():
            return NotALog(f"what answers at {address} is no Redis of ours: {said}")
        case _:
            pass
    return LogUnavailable(f"Redis at {address} cannot be reached: {said}")
