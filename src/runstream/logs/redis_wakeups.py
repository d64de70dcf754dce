"""Wake-ups: one subscribed connection of this process tells of news in every stream that somebody follows.

A stream's channel is listened to before its end is looked up, and everybody is woken when the connection
has been made again: so nothing is missed. In a cluster, where messages between nodes may get lost, the
ends of followed streams are also looked at from time to time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec
from redis.exceptions import RedisError

from ..bell import Bell
from .redis_server import Wire, hang_up

# A connection that is silent for this long is asked for a sign of life, and dropped if none comes.
SILENCE_S_MAX: Final = 2.0
CONNECT_S_MAX: Final = 2.0
RETRY_S: Final = 0.02
RETRY_S_MAX: Final = 0.5
# A channel that nobody has listened to for this long is left: a reader is back after each page.
UNUSED_S_MAX: Final = 30.0
# Channels in one command.
CHANNELS_MAX: Final = 500


logger = logging.getLogger(__name__)


class Tail(msgspec.Struct, frozen=True):
    """The end of a stream: its newest seq, and whether it is final."""

    generation: str
    last_seq: int
    ended: bool


class Wakeups:
    """All in one event loop, but for `tail`. `look_at` looks up the ends of some streams."""

    def __init__(
        self,
        make_connection: Callable[[], Wire],
        channel_of: Callable[[str], str],
        bell: Bell,
        look_at: Callable[[Iterable[str]], Awaitable[None]] | None,
    ) -> None:
        self._make_connection = make_connection
        self._channel_of = channel_of
        self._bell = bell
        self._look_at = look_at
        # By run id; a future is done when the server has confirmed that it tells us.
        self._heard: dict[str, asyncio.Future[None]] = {}
        self._runs: dict[bytes, str] = {}
        self._used_at: dict[str, float] = {}
        self._tails: dict[str, Tail] = {}
        self._connection: Wire | None = None
        self._task: asyncio.Task[None] | None = None

    def tail(self, run_id: str) -> Tail | None:
        """The end of a stream as the last message told it; None if we do not hear of it. Any thread."""
        return self._tails.get(run_id)

    async def listen(self, run_id: str) -> None:
        """Return when every later message about that run reaches us. Safe to cancel."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())
        self._used_at[run_id] = time.monotonic()
        heard = self._heard.get(run_id)
        if heard is None:
            heard = self._heard[run_id] = asyncio.get_running_loop().create_future()
            self._runs[self._channel_of(run_id).encode()] = run_id
            if self._connection is not None:
                with contextlib.suppress(RedisError, OSError):
                    await self._connection.send_command(
                        "SUBSCRIBE", self._channel_of(run_id), check_health=False
                    )
        await asyncio.shield(heard)

    def saw(self, run_id: str, tail: Tail) -> None:
        """What was looked up after `listen`: the end, unless a message has told of a newer one."""
        heard = self._heard.get(run_id)
        if heard is None or not heard.done():
            return  # the connection broke meanwhile: this may be old already
        there = self._tails.get(run_id)
        if there is None or there.generation != tail.generation or there.last_seq < tail.last_seq:
            self._tails[run_id] = tail

    async def close(self) -> None:
        """Stop; whoever waits in `listen` is cancelled."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for heard in self._heard.values():
            heard.cancel()

    async def _run(self) -> None:
        pause_s = RETRY_S
        while True:
            connection = self._make_connection()
            try:
                await self._connect(connection)
                pause_s = RETRY_S
                await self._receive(connection)
            except (RedisError, OSError) as error:
                # The next one subscribes to everything again; `listen` waits for it.
                logger.debug("the wake-up connection broke: %s", error)
            except Exception:
                # Not a fault that we know; readers still come back to look, only later.
                logger.exception("the wake-up connection failed")
            finally:
                self._connection = None
                self._forget_all()
                await hang_up(connection)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RETRY_S_MAX)

    async def _connect(self, connection: Wire) -> None:
        async with asyncio.timeout(CONNECT_S_MAX):
            await connection.connect()
            self._connection = connection
            channels = [self._channel_of(run_id) for run_id in self._heard]
            for start in range(0, len(channels), CHANNELS_MAX):
                some = channels[start : start + CHANNELS_MAX]
                await connection.send_command("SUBSCRIBE", *some, check_health=False)
            if not channels:  # nothing may be asked on it before it is a subscriber's
                await connection.send_command("PING", check_health=False)

    def _forget_all(self) -> None:
        """What we know may be old now; and whoever waits must look for himself."""
        self._tails.clear()
        loop = asyncio.get_running_loop()
        for run_id, heard in self._heard.items():
            if heard.done():
                self._heard[run_id] = loop.create_future()
        self._bell.ring_all()

    async def _receive(self, connection: Wire) -> None:
        looked_at = time.monotonic()
        asked = False
        while True:
            try:
                async with asyncio.timeout(SILENCE_S_MAX):
                    message = await connection.read_response(
                        timeout=float("inf"), disconnect_on_error=False
                    )
            except TimeoutError:
                if asked:
                    raise
                await connection.send_command("PING", check_health=False)
                asked = True
            else:
                asked = False
                self._take(message)
            if time.monotonic() - looked_at >= SILENCE_S_MAX:
                looked_at = time.monotonic()
                await self._leave_unused(connection)
                if self._look_at is not None and self._bell.listened:
                    await self._look_at(self._bell.listened)

    def _take(self, message: Any) -> None:
        match message:
            case [b"message", bytes(channel), bytes(told)]:
                run_id = self._runs.get(channel)
                if run_id is None:
                    return
                match told.split(b" "):
                    case [generation, last_seq, end]:
                        self._tails[run_id] = Tail(generation.decode(), int(last_seq), end == b"e")
                    case _:  # it was opened as a child, or removed
                        self._tails.pop(run_id, None)
                self._bell.ring([run_id])
            case [b"subscribe", bytes(channel), _]:
                heard = self._heard.get(self._runs.get(channel, ""))
                if heard is not None and not heard.done():
                    heard.set_result(None)
            case _:
                pass  # a pong, or the end of a subscription

    async def _leave_unused(self, connection: Wire) -> None:
        now = time.monotonic()
        for run_id in self._bell.listened:
            if run_id in self._used_at:
                self._used_at[run_id] = now
        unused = [
            run_id for run_id, used_at in self._used_at.items() if now - used_at > UNUSED_S_MAX
        ]
        for run_id in unused:
            channel = self._channel_of(run_id)
            del self._used_at[run_id]
            self._tails.pop(run_id, None)
            self._runs.pop(channel.encode(), None)
            self._heard.pop(run_id).cancel()
            await connection.send_command("UNSUBSCRIBE", channel, check_health=False)
