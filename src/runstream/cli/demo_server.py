"""The server of the demo: `runstream serve` as a child process, for as long as the demo runs."""

from __future__ import annotations

import importlib.util
import signal
import socket
import subprocess
import sys
import tempfile
import time
from types import TracebackType
from typing import Final, Self

from .exit_codes import LOG_UNUSABLE
from .options import Problem

# Where people expect it; if that is taken, any free one.
PORT: Final = 4747
# Until it listens; loading it takes a second.
START_S_MAX: Final = 30.0
# It drains its subscribers, and has none by then.
STOP_S_MAX: Final = 10.0


def can_serve() -> bool:
    """Whether the extras `server` and `http` are installed."""
    needed = ("granian", "starlette", "jwt", "prometheus_client", "aiohttp")
    return all(importlib.util.find_spec(name) is not None for name in needed)


class DemoServer:
    """A server over `log_url` on this machine; started and stopped with the block. `url` is its own."""

    def __init__(self, log_url: str) -> None:
        self._port = _free_port()
        self.url = f"http://127.0.0.1:{self._port}"
        self._command = [sys.executable, "-m", "runstream", "serve", "--url", log_url]
        self._command += ["--port", str(self._port)]

    def console_url(self, run_id: str) -> str:
        """Where a browser sees the run."""
        return f"{self.url}/#/runs/{run_id}"

    def events_url(self, run_id: str) -> str:
        """Where its stream of events is."""
        return f"{self.url}/v1/runs/{run_id}/events"

    def __enter__(self) -> Self:
        # What it says is shown only if it cannot start. (In a group of its own: Ctrl-C is for the demo.)
        self._said = tempfile.TemporaryFile()
        self._process = subprocess.Popen(  # noqa: S603 - this very program
            self._command, stdout=self._said, stderr=self._said, start_new_session=True
        )
        deadline = time.monotonic() + START_S_MAX
        while not _answers(self._port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._stop()
                raise Problem(self._complaint(), LOG_UNUSABLE)
            time.sleep(0.02)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        self._said.close()

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _complaint(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return (lines or ["the server did not start"])[-1].removeprefix("runstream: ")


def _free_port() -> int:
    for port in (PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as free:
                return int(free.getsockname()[1])
        except OSError:
            continue
    raise Problem("no port is free on this machine", LOG_UNUSABLE)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
