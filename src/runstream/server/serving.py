"""Serving the app over HTTP with Granian, inside this process, until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from math import ceil
from pathlib import Path
from typing import Any, Final

from granian.constants import Interfaces
from granian.http import HTTP1Settings, HTTP2Settings
from granian.log import LogLevels
from granian.server.embed import Server

from ..errors import InvalidInput, LogUnavailable
from .app import App
from .crowd import Crowd

PORT: Final = 4747
HOST: Final = "127.0.0.1"
# Connections at once; each subscriber holds one.
CONNECTIONS_MAX: Final = 20_000
# Requests at once over one HTTP/2 connection: a page's tabs have that many streams, a proxy opens another.
STREAMS_MAX: Final = 200
# Connections that wait to be accepted while the loop is busy.
BACKLOG: Final = 2048
# A request's headers: a hundred filter values fit.
HEADER_BYTES_MAX: Final = 64 * 1024
# From the first byte of a request to the end of its headers, and from the end of a request to the next
# one: longer than usual clients keep an idle connection, so that they and not we close it.
HEADER_READ_S_MAX: Final = 30.0
# New objects between two looks of the garbage collector.
GC_OBJECTS: Final = 50_000
# What still holds a connection after the drain is cut.
CLOSE_S: Final = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where the server listens."""

    host: str = HOST
    port: int = PORT
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_key_password: str | None = None
    header_read_s: float = HEADER_READ_S_MAX

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidInput("a certificate and its key go together")

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls_cert else 'http'}://{host}:{self.port}"


def run(app: App, listening: Listening, on_ready: Callable[[], None]) -> None:
    """`serve` in an event loop of its own: uvloop's, where there is one. Measured, that is a tenth less
    of a core for each request.
    """
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] | None
        factory = import_module("uvloop").new_event_loop
    except ModuleNotFoundError:  # on Windows; Python's own loop then
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(serve(app, listening, on_ready))


async def serve(app: App, listening: Listening, on_ready: Callable[[], None]) -> None:
    """Serve until SIGTERM or SIGINT; then subscribers hear a reason, and what is under way finishes.

    Raises:
        InvalidURL, NotALog, LogUnavailable: the log cannot be used.
        LogUnavailable: the address is taken.
        InvalidInput: the certificate or its key cannot be used, or the host has no address.
    """
    loop = asyncio.get_running_loop()
    asked_to_stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop.set)
    try:
        address = await _resolve(listening.host)
        _check_free(listening)
        _allow_open_files()
        site = await app.start()
        site.owns_scopes = True
        if site.workflows.is_empty:  # else there are threads that are not the server's own
            site.intake.crowd = Crowd()
        _calm_collector()
        server = _granian(app, listening, address)
        serving = asyncio.create_task(server.serve())
        stopping = asyncio.create_task(asked_to_stop.wait())
        # It listens after its first step.
        await asyncio.sleep(0)
        if not serving.done():
            on_ready()
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if serving.done():
            _explain(serving, listening)
        await app.drain()
        server.stop()  # type: ignore[no-untyped-call] # Granian's
        await asyncio.wait({serving}, timeout=CLOSE_S)
        if not serving.done():
            loop.set_exception_handler(_without_late_ends)
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
    finally:
        await app.stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _without_late_ends(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Requests that were given up end when the loop does; Granian then tells a future that is cancelled."""
    if not isinstance(context.get("exception"), asyncio.InvalidStateError):
        loop.default_exception_handler(context)


def _calm_collector() -> None:
    """Requests leave no cycles behind worth looking for after every few hundred objects: measured, that
    was a tenth of the time. What is there from the start stays, and need not be looked at again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 50)


def _allow_open_files() -> None:
    """As many as the operator allows: what a process begins with is often 1 024, for old programs' sake."""
    try:
        resource = import_module("resource")
    except ModuleNotFoundError:  # Windows has no such limit
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _check_free(listening: Listening) -> None:
    """Granian would share a port with another server of this user, and each would get some connections.

    Raises LogUnavailable: somebody listens there.
    """
    # (Binding it for a moment would tell less: that also fails for connections that have just ended.)
    try:
        socket.create_connection((listening.host, listening.port), timeout=CLOSE_S).close()
    except OSError:
        return
    raise LogUnavailable(
        f"cannot listen at {listening.url}: the port is in use; choose another one"
    )


async def _resolve(host: str) -> str:
    """The address of a name, of IPv4 if it has one: Granian takes no names.

    Raises InvalidInput: it has none.
    """
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InvalidInput(f"{host!r} has no address to listen at: {error}") from None
    _, _, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
    return str(address[0])


def _granian(app: App, listening: Listening, address: str) -> Server:
    try:
        key = listening.tls_key
        if key and listening.tls_key_password is None and b"ENCRYPTED" in key.read_bytes():
            # Or the library would ask whoever sits at the terminal, and wait.
            raise InvalidInput(f"the key {key} is encrypted: give one without a passphrase")
        return _make_server(app, listening, address)
    except OSError as error:  # errors of TLS are some
        raise InvalidInput(
            f"the certificate {listening.tls_cert} and its key {listening.tls_key} cannot be used: {error}"
        ) from error


def _make_server(app: App, listening: Listening, address: str) -> Server:
    return Server(
        app.requests,
        address=address,
        port=listening.port,
        interface=Interfaces.ASGINL,
        websockets=False,
        backlog=BACKLOG,
        backpressure=CONNECTIONS_MAX,
        http1_settings=HTTP1Settings(
            header_read_timeout=int(listening.header_read_s * 1000),
            max_buffer_size=HEADER_BYTES_MAX,
        ),
        # An idle connection stays as long as its client is there, and answers a ping in the same time. One
        # whose client vanished would stay for ever.
        http2_settings=HTTP2Settings(
            max_headers_size=HEADER_BYTES_MAX,
            max_concurrent_streams=STREAMS_MAX,
            keep_alive_interval=int(listening.header_read_s * 1000),
            keep_alive_timeout=ceil(listening.header_read_s),
        ),
        log_level=LogLevels.error,
        ssl_cert=listening.tls_cert,
        ssl_key=listening.tls_key,
        ssl_key_password=listening.tls_key_password,
    )


def _explain(serving: asyncio.Task[None], listening: Listening) -> None:
    error = serving.exception()
    if isinstance(error, (OSError, RuntimeError)):
        # (Granian's own errors bring a stack along.)
        why = str(error).partition("\n")[0]
        raise LogUnavailable(f"cannot listen at {listening.url}: {why}") from error
    if error is not None:
        raise error
    raise LogUnavailable(f"the server at {listening.url} ended by itself")
