"""The server of the demo: `runstream serve` as a child process, for as long as the demo runs."""

from __future__ import annotations

import importlib.util
import os
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
# What a server says whose port another program has.
PORT_TAKEN: Final = "the port is in use"
# Of what it says; it begins with what matters.
SAID_BYTES_MAX: Final = 64 * 1024
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
        self._log_url = log_url
        self.url = ""

    def console_url(self, run_id: str) -> str:
        """Where a browser sees the run."""
        return f"{self.url}/#/runs/{run_id}"

    def events_url(self, run_id: str) -> str:
        """Where its stream of events is."""
        return f"{self.url}/v1/runs/{run_id}/events"

    def __enter__(self) -> Self:
        # What it says is shown only if it cannot start.
        self._said = tempfile.TemporaryFile()
        # (Another demo may have begun at the same moment, and have the port now that was free.)
        if not self._start(_free_port()) and not (
            PORT_TAKEN in self._complaint() and self._start(_free_port())
        ):
            problem = Problem(self._complaint(), LOG_UNUSABLE)
            self._said.close()
            raise problem
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()
        self._said.close()

    def _start(self, port: int) -> bool:
        """Whether it listens there now."""
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "runstream", "serve", "--url", self._log_url]
        # (In a group of its own: Ctrl-C is for the demo.)
        self._process = subprocess.Popen(  # noqa: S603 - this very program
            [*command, "--port", str(port)],
            stdout=self._said,
            stderr=self._said,
            start_new_session=True,
        )
        deadline = time.monotonic() + START_S_MAX
        # (It says so itself: whoever else answers there serves another log.)
        while f" at {self.url} (" not in self._output():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._stop()
                return False
            time.sleep(0.02)
        return True

    def _stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _output(self) -> str:
        # (Not by seeking: the server goes on writing where the file stands.)
        return os.pread(self._said.fileno(), SAID_BYTES_MAX, 0).decode(errors="replace")

    def _complaint(self) -> str:
        lines = self._output().strip().splitlines()
        return (lines or ["the server did not start"])[-1].removeprefix("runstream: ")


def _free_port() -> int:
    for port in (PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as free:
                return int(free.getsockname()[1])
        except OSError:
            continue
    raise Problem("no port is free on this machine", LOG_UNUSABLE)
