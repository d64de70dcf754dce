"""Connecting: `connect(url)` gives the streams of a log, for async and for plain code."""

from __future__ import annotations

from types import TracebackType

from . import process
from .errors import LogClosed
from .log import Log
from .portal import Portal
from .settings import read_settings
from .streams import Streams
from .sync_streams import SyncStreams


class Connection:
    """What `connect` gives: enter it with `async with` or, in plain code, with `with`."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url
        self._token = token
        self._log: Log | None = None
        self._portal: Portal | None = None

    async def __aenter__(self) -> Streams:
        self._log = await process.acquire_log_in_thread(self.url, token=self._token)
        return Streams(self._log)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await process.release_log(self.url, self._take_log())

    def __enter__(self) -> SyncStreams:
        self._log = process.acquire_log(self.url, token=self._token)
        self._portal = Portal("runstream-connection")
        return SyncStreams(self._portal, Streams(self._log))

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        log = self._take_log()
        if self._portal is not None:
            self._portal.call(process.release_log(self.url, log))
            self._portal.close()
            self._portal = None

    def _take_log(self) -> Log:
        if self._log is None:
            raise LogClosed("this connection is not open")
        log, self._log = self._log, None
        return log


def connect(url: str | None = None, *, token: str | None = None) -> Connection:
    """Connect to a log: `async with connect("sqlite:events.db") as streams:` (or plain `with`).

    Without a URL: `RUNSTREAM_URL`, else SQLite in the user's data directory, where runs without a
    configuration are stored too. A server (`https://…`) is shown the `token`, by default
    `RUNSTREAM_TOKEN`; it is met with the first request.

    Raises (on entering):
        InvalidURL, NotALog, LogUnavailable: it cannot be used.
        InvalidInput: a token for a log that takes none.

    Cancelled while it opens, it returns at once, and what is opened all the same is closed.
    """
    return Connection(url or read_settings().url, token)
