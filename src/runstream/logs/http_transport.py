"""Requests to one server: connections that stay open, retries, and errors in the terms of the log.

One session per event loop (a log is used from its publisher's loop and from the user's), closed with the
log or with its loop. A token is sent in a header alone and shown nowhere; redirects are not followed, so
it goes to no other host.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import os
import random
import ssl
import time
import zlib
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from ..api import HEARTBEAT_S, JSON, V1
from ..errors import InvalidURL, LogClosed, LogUnavailable, NotALog, RunstreamError
from ..retry import Retry
from ..settings import proxy_for
from .http_refusals import BAD_GATEWAY, COME_BACK, Busy, refusal, retry_after_s

logger = logging.getLogger(__name__)

# Requests at the same time from one event loop, so that a crowd of callers does not open a connection
# each. Followers and long polls do not count: each keeps a connection for as long as it waits.
REQUESTS_AT_ONCE_MAX: Final = 64
# An idle connection is kept for this time: shorter than servers and proxies keep theirs, so that a
# request rarely meets one that is being closed.
KEEPALIVE_S: Final = 10.0
# Bytes read from a connection at once: thousands of records, and a few milliseconds of a loop's time.
READ_BYTES: Final = 256 * 1024
# Bytes of one answer: a page of the largest records. More is not an answer of ours.
ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024
# Bodies from this size on are compressed (not to this machine): smaller ones fit into a packet or two.
GZIP_BYTES_MIN: Final = 4 * 1024
# Beyond it compressing would be noticed in an event loop, and is done in a thread.
GZIP_BYTES_IN_LOOP_MAX: Final = 64 * 1024
_GZIP_WBITS: Final = 31


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long the client waits for what, in seconds."""

    # For a connection; a few round trips around the world.
    connect_s: float = 5.0
    # For a whole answer; a server that is slower than this is taken for gone.
    request_s: float = 30.0
    # A request that fails is made again for this long before the caller hears of it: a dropped
    # connection goes unnoticed, a server that is not there is told within a second or two.
    persist_s: float = 1.5
    # A stream that is silent for this long is taken for lost: two heartbeats did not come.
    silence_s: float = 2 * HEARTBEAT_S + 5.0
    # The longest pause before a follower connects again: soon enough after an outage, and with
    # jitter no crowd at once.
    reconnect_s_max: float = 5.0


TIMES: Final = Times()
# HTTP's statuses from here on: what was asked for was not done.
_NOT_DONE: Final = 300
# Pauses between the attempts of one request.
_PAUSES: Final = Retry(attempts=1000, delay=0.05, max_delay=0.5)


@dataclass(slots=True)
class Answer:
    """A server's answer. `unsure`: an earlier attempt of the same request may have been carried out."""

    status: int
    body: bytes
    unsure: bool


class Transport:
    """The connections to one server. Safe for any event loop, and for threads with one."""

    def __init__(
        self, base: str, *, token: str | None = None, ca: str | None = None, times: Times = TIMES
    ) -> None:
        self.base = base.rstrip("/")
        self.times = times
        self.closed = False
        host = urlsplit(self.base).hostname or ""
        self._is_near = _is_loopback(host)
        self._headers = {"accept-encoding": "identity" if self._is_near else "gzip"}
        if token is not None:
            self._headers["authorization"] = f"Bearer {token}"
        self._tls = _tls(ca)
        self._proxy = None if self._is_near else proxy_for(self.base)
        self._links: dict[asyncio.AbstractEventLoop, _Link] = {}

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        body: bytes | None = None,
        repeatable: bool = True,
        wait_s: float | None = None,
        done: int | None = None,
    ) -> Answer:
        """One request, made again while that is safe and the time for it is not over.

        `repeatable`: doing it twice is harmless. `wait_s`: the server answers only after that time.
        `done`: a status that, after an attempt whose answer was lost, says that this one did it.

        Raises:
            LogUnavailable: no answer; without `repeatable` it may have been carried out all the same.
            LogClosed: this log was closed.
            RunstreamError: what the server answered; NotALog if it is no server of ours.
        """
        headers = {"accept": JSON}
        if body is not None:
            headers["content-type"] = JSON
            body = await self._packed(body, headers)
        url = self._url(path, query)
        limit_s = self.times.request_s + (wait_s or 0.0)
        give_up_at: float | None = None
        attempt, unsure = 0, False
        while True:
            attempt += 1
            link = await self._link()
            again_after_s = _PAUSES.pause(attempt, random.random()) or 0.0  # noqa: S311 - jitter
            try:
                async with link.unlimited if wait_s else link.requests:
                    status, found, answer = await self._exchange(
                        link, method, url, body, headers, limit_s
                    )
                if status < _NOT_DONE or (unsure and status == done):
                    return Answer(status, answer, unsure)
                error = _may_come_back(refusal(status, found, answer), status, repeatable)
                # Whoever is asked to come back later has not been served; by a proxy, nobody knows.
                unsure |= status == BAD_GATEWAY
                again_after_s = max(again_after_s, retry_after_s(found))
            except aiohttp.ClientConnectorError as cause:
                error = self._unavailable(cause)
            except TimeoutError as cause:
                raise self._unavailable(cause) from cause
            except (aiohttp.ClientError, OSError) as cause:
                error = self._unavailable(cause)
                if not repeatable:
                    raise _in_doubt(error) from cause
                unsure = True
            now = time.monotonic()
            give_up_at = give_up_at or now + self.times.persist_s
            if now + again_after_s > give_up_at:
                raise error
            await link.pause(again_after_s)

    async def _exchange(
        self,
        link: _Link,
        method: str,
        url: URL,
        body: bytes | None,
        headers: Mapping[str, str],
        limit_s: float,
    ) -> tuple[int, Mapping[str, str], bytes]:
        try:
            async with link.session.request(
                method,
                url,
                data=_sendable(body),
                headers=headers,
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=limit_s, sock_connect=self.times.connect_s),
            ) as response:
                with link.reading(response):
                    answer = await self._read(response)
                if response.status < _NOT_DONE and answer and "json" not in response.content_type:
                    raise NotALog(f"{self.base} answers with a page: is the URL right?")
                return response.status, response.headers, answer
        except RuntimeError as error:  # the session was closed at this very moment
            self._check_open()
            raise aiohttp.ClientConnectionError(str(error)) from error
        except (aiohttp.ClientError, OSError):
            self._check_open()
            raise

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """A whole answer, of a size that fits into memory."""
        parts: list[bytes] = []
        size_bytes = 0
        async for part in response.content.iter_any():
            parts.append(part)
            size_bytes += len(part)
            if size_bytes > ANSWER_BYTES_MAX:
                raise NotALog(f"{self.base} answers with more than {ANSWER_BYTES_MAX} bytes")
        return b"".join(parts)

    @asynccontextmanager
    async def stream(
        self, path: str, query: str, headers: Mapping[str, str]
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """A response that is read while it comes; one attempt.

        Raises what `call` does, and Busy; LogUnavailable also while the response is being read.
        """
        link = await self._link()
        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=self.times.connect_s, sock_read=self.times.silence_s
        )
        try:
            async with link.session.get(
                self._url(path, query),
                headers={**headers, "accept-encoding": "identity"},
                allow_redirects=False,
                timeout=timeout,
                read_bufsize=READ_BYTES,
            ) as response:
                with link.reading(response):
                    if response.status >= _NOT_DONE:
                        raise await self._refusal(response)
                    yield response
        except (aiohttp.ClientError, OSError, TimeoutError, RuntimeError) as error:
            self._check_open()
            if isinstance(error, RuntimeError) and not link.session.closed:
                raise
            raise self._unavailable(error) from error

    async def _refusal(self, response: aiohttp.ClientResponse) -> Exception:
        error = refusal(response.status, response.headers, await self._read(response))
        if response.status in COME_BACK:
            return Busy(error, retry_after_s(response.headers))
        return error

    async def pause(self, seconds: float) -> None:
        """Wait; raises LogClosed as soon as the log is closed."""
        await (await self._link()).pause(seconds)
        self._check_open()

    async def aclose(self) -> None:
        """Close the connections of every loop; calls that are under way raise LogClosed."""
        self.closed = True
        here = asyncio.get_running_loop()
        for loop, link in list(self._links.items()):
            if loop is here:
                await link.close()
            else:
                with contextlib.suppress(
                    RuntimeError
                ):  # that loop was closed, and the link with it
                    asyncio.run_coroutine_threadsafe(link.close(), loop)

    async def _link(self) -> _Link:
        self._check_open()
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None:
            link = self._links[loop] = _Link(self._session(), lambda: self._links.pop(loop, None))
            await link.live_with_loop()
        return link

    def _session(self) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=self._tls),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            read_bufsize=READ_BYTES,
            proxy=self._proxy,
        )
        # The driver would repeat a PUT whose answer was lost by itself, and not tell; its own test
        # client switches that off in the same way.
        session._retry_connection = False  # noqa: SLF001 # pyright: ignore[reportPrivateUsage]
        return session

    async def _packed(self, body: bytes, headers: dict[str, str]) -> bytes:
        if self._is_near or len(body) < GZIP_BYTES_MIN:
            return body
        headers["content-encoding"] = "gzip"
        if len(body) <= GZIP_BYTES_IN_LOOP_MAX:
            return _gzip(body)
        return await asyncio.to_thread(_gzip, body)

    def _url(self, path: str, query: str) -> URL:
        return URL(f"{self.base}{V1}{path}{query and '?'}{query}", encoded=True)

    def _check_open(self) -> None:
        if self.closed:
            raise LogClosed(f"the connection to {self.base} has been closed")

    def _unavailable(self, cause: BaseException) -> LogUnavailable:
        why = str(cause) or repr(cause)
        if isinstance(cause, TimeoutError):
            why = "no answer in time"
        elif isinstance(cause, aiohttp.ClientConnectorError):
            why = f"cannot connect: {_plain(cause.os_error)}"
            if isinstance(cause.os_error, ConnectionRefusedError):
                why += " (nothing listens there: is the server running?)"
        error = LogUnavailable(f"{self.base}: {why}")
        error.__cause__ = cause
        return error


class _Link:
    """One event loop's connections. Made in that loop."""

    def __init__(self, session: aiohttp.ClientSession, forget: Callable[[], object]) -> None:
        self.session = session
        self.requests = asyncio.Semaphore(REQUESTS_AT_ONCE_MAX)
        self.unlimited = contextlib.nullcontext()
        self._closing = asyncio.Event()
        self._forget = forget
        self._read: set[aiohttp.ClientResponse] = set()
        self._keeper = self._keep()

    @contextmanager
    def reading(self, response: aiohttp.ClientResponse) -> Generator[None, None, None]:
        """The time in which a response is read: closing ends it."""
        self._read.add(response)
        try:
            yield
        finally:
            self._read.discard(response)

    async def live_with_loop(self) -> None:
        """Close with the loop: one that is shut down closes its generators first."""
        await anext(self._keeper)

    async def _keep(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._forget()
            await self.session.close()

    async def pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    async def close(self) -> None:
        self._closing.set()
        # Closing a connection does not by itself wake those who read from it.
        for response in self._read:
            response.content.set_exception(aiohttp.ClientConnectionError("closed"))
        await self._keeper.aclose()
        await self.session.close()


def _sendable(body: bytes | None) -> bytes | io.BytesIO | None:
    # The driver writes the one at once, the other in parts that leave the event loop its turns.
    if body is None or len(body) <= READ_BYTES:
        return body
    return io.BytesIO(body)


def _tls(ca: str | None) -> ssl.SSLContext | bool:
    """What verifies certificates; True: the system's authorities. Raises InvalidURL."""
    if ca is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl.SSLError is one, too
        raise InvalidURL(f"ca names a file with certificates (PEM): {ca!r}: {error}") from error


def _may_come_back(error: RunstreamError, status: int, repeatable: bool) -> LogUnavailable:
    """The refusal, if the same request may be made again. Raises it else."""
    if status == BAD_GATEWAY and not repeatable:
        # The proxy has lost its server, before or behind the request: as if we had lost it.
        raise _in_doubt(error)
    if status != BAD_GATEWAY and status not in COME_BACK:
        raise error
    return LogUnavailable(str(error))


def _in_doubt(error: Exception) -> LogUnavailable:
    return LogUnavailable(f"{error}; it may have been stored all the same")


def _plain(error: OSError) -> str:
    """What an error of the system says, without its number."""
    if isinstance(error, ssl.SSLError) or not error.errno or error.errno < 0:
        # (One that was lost in the middle of TLS's handshake says nothing at all.)
        return str(error.args[-1]) if error.args else "the connection was lost"
    return os.strerror(error.errno)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _gzip(body: bytes) -> bytes:
    packing = zlib.compressobj(level=1, wbits=_GZIP_WBITS)
    return packing.compress(body) + packing.flush()
