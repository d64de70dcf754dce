"""A line to one Redis server: a connection on which calls go out in groups, and are repeated when it breaks.

What waits while a group is under way goes into the next one, so many callers share a round trip (and a
sync of the server's file). A call whose reply was lost is sent again on the next connection until its time
is over: every call is such that doing it twice is harmless. All in one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.exceptions import (
    AskError,
    ClusterDownError,
    DataError,
    MovedError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from ..errors import InvalidInput, LogClosed, LogUnavailable, RunstreamError
from .redis_server import Server, Wire, hang_up, meet, refusal

# A call is given up after this time: longer than a server that is restarted, or a failover, needs; short
# enough for a person who waits. Publishers go on trying by themselves.
CALL_S_MAX: Final = 5.0
# A server that does not answer a group for this time hangs; another connection may meet its successor.
REPLY_S_MAX: Final = 4.0
CONNECT_S_MAX: Final = 2.0
# Pauses between two attempts to connect.
RETRY_S: Final = 0.02
RETRY_S_MAX: Final = 0.5
# Calls, and bytes, in one group: bounds how long the ones behind wait.
GROUP_CALLS_MAX: Final = 256
GROUP_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024
# A cluster may send a call on this often (its slots are being moved) before we give up.
MOVES_MAX: Final = 8

logger = logging.getLogger(__name__)

Command = Sequence[str | bytes | int]
# Given the server (in the life that it has) and the time of giving up, in its own clock (µs).
MakeCommand = Callable[[Server, int], Command]


class Call:
    """A command on its way; `done` gets its reply, or why there is none."""

    __slots__ = ("asking", "deadline", "done", "make", "moves", "slot")

    def __init__(self, make: MakeCommand, slot: int) -> None:
        self.make = make
        self.slot = slot
        self.deadline = time.monotonic() + CALL_S_MAX
        self.done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.moves = 0
        self.asking = False

    def answer(self, reply: Any) -> None:
        if not self.done.done():
            self.done.set_result(reply)

    def fail(self, error: Exception) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Line:
    """One connection, and what waits for it. `on_moved` takes a call that belongs to another server now;
    `on_broken` hears that the connection broke or could not be made.
    """

    def __init__(
        self,
        address: str,
        make_connection: Callable[[], Wire],
        on_moved: Callable[[Call, str], None],
        on_broken: Callable[[], None],
    ) -> None:
        self.address = address
        self.server: Server | None = None
        self._make_connection = make_connection
        self._on_moved = on_moved
        self._on_broken = on_broken
        self._connection: Wire | None = None
        self._calls: deque[Call] = deque()
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._why = ""
        self._ended: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    async def connect(self) -> Server:
        """Connect now. Raises what `refusal` makes of a failure."""
        connection = self._make_connection()
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await connection.connect()
                self.server = await meet(connection)
        except (RedisError, RunstreamError, OSError, ValueError) as error:
            await hang_up(connection)
            raise refusal(error, self.address) from error
        except BaseException:
            await hang_up(connection)
            raise
        self._connection = connection
        return self.server

    def add(self, call: Call) -> None:
        """Send a call with the next group; after the end it is told so at once."""
        if self._ended is not None:
            call.fail(self._ended)
            return
        self._calls.append(call)
        self._idle.clear()
        self._news.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._serve())

    async def close(self, within_s: float) -> None:
        """Finish what waits, if it can be done in that time; refuse the rest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._idle.wait()
        self._end(LogClosed(f"the log at {self.address} has been closed"))
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            await hang_up(self._connection)
            self._connection = None

    def take_waiting(self) -> list[Call]:
        """The calls that were not sent yet: somebody else sends them."""
        waiting = list(self._calls)
        self._calls.clear()
        return waiting

    def _end(self, error: Exception) -> None:
        self._ended = error
        while self._calls:
            self._calls.popleft().fail(error)

    async def _serve(self) -> None:
        pause_s = 0.0
        while True:
            if not self._calls:
                self._idle.set()
                self._news.clear()
                await self._news.wait()
            group = self._next_group()
            if not group:
                continue
            try:
                await self._exchange(group)
                pause_s = 0.0
            except Exception as error:
                if not isinstance(error, RedisError | RunstreamError | OSError):
                    logger.exception("the line to Redis at %s failed", self.address)
                await self._broken(group, error)
                # At once the first time: most often the server has only closed what was idle.
                await asyncio.sleep(pause_s)
                pause_s = min(max(RETRY_S, pause_s * 2), RETRY_S_MAX)
            finally:
                # Cancelled, because the log is closed: whoever was on the way hears so.
                while group and self._ended is not None:
                    group.popleft().fail(self._ended)

    def _next_group(self) -> deque[Call]:
        now = time.monotonic()
        group: deque[Call] = deque()
        while self._calls and len(group) < GROUP_CALLS_MAX:
            call = self._calls.popleft()
            if call.done.done():
                continue  # its caller has gone away, and nothing was sent
            if now >= call.deadline:
                call.fail(LogUnavailable(f"Redis at {self.address} does not answer{self._why}"))
                continue
            group.append(call)
        return group

    async def _exchange(self, group: deque[Call]) -> None:
        """Send a group and give each call its reply."""
        if self._connection is None:
            await self.connect()
        connection, server = self._connection, self.server
        assert connection is not None and server is not None  # noqa: S101, PT018 - connected above
        packed = self._pack(connection, server, group)
        async with asyncio.timeout(REPLY_S_MAX):
            await connection.send_packed_command(packed, check_health=False)
            while group:
                # It leaves the group when it needs this line no more.
                await self._take_reply(connection, group[0])
                group.popleft()

    def _pack(self, connection: Wire, server: Server, group: deque[Call]) -> list[bytes]:
        """What to send; what does not fit, or cannot be sent, leaves the group."""
        packed: list[bytes] = []
        size, fitting = 0, deque[Call]()
        while group and (size < GROUP_SIZE_BYTES_MAX or not fitting):
            call = group.popleft()
            command = call.make(server, server.time_us(call.deadline))
            try:
                parts = connection.pack_commands(
                    [("ASKING",), command] if call.asking else [command]
                )
            except (UnicodeError, DataError) as error:
                call.fail(InvalidInput(f"Redis cannot be given that: {error}"))
                continue
            packed += parts
            size += sum(map(len, parts))
            fitting.append(call)
        self._calls.extendleft(reversed(group))
        group.clear()
        group.extend(fitting)
        return packed

    async def _take_reply(self, connection: Wire, call: Call) -> None:
        try:
            if call.asking:
                await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            reply = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
        except ResponseError as error:
            self._refused(call, error)
            return
        if isinstance(reply, list) and reply and reply[0] == b"late":
            # Not by our clock, or its time would be over: the server's was set, so look again.
            raise LogUnavailable("its clock was set")
        call.answer(reply)

    def _refused(self, call: Call, error: ResponseError) -> None:
        """The server answered a call with an error: nothing was done."""
        said = str(error)
        match error:
            case MovedError() | AskError() if call.moves < MOVES_MAX:
                call.moves += 1
                call.asking = not isinstance(error, MovedError)
                self._on_moved(call, str(error).split()[-1])
            case NoScriptError() | TryAgainError() | ReadOnlyError() | ClusterDownError():
                raise error  # a new connection gives it our scripts, or meets a server that can
            case _ if isinstance(error, OutOfMemoryError) or "OOM command not allowed" in said:
                call.fail(
                    LogUnavailable(f"Redis at {self.address} is full: it has reached its maxmemory")
                )
            case _:
                call.fail(LogUnavailable(f"Redis at {self.address} refuses: {said}"))

    async def _broken(self, group: deque[Call], error: Exception) -> None:
        """Whoever has no answer yet is asked for again, before those who came later."""
        self._why = f": {error}" if str(error) else f": no answer within {REPLY_S_MAX:g} s"
        connection, self._connection = self._connection, None
        if connection is not None:
            await hang_up(connection)
        self._calls.extendleft(reversed(group))
        group.clear()
        self._on_broken()
