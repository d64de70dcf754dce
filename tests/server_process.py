"""`runstream serve` as a child process of the test: started, killed, paused, restarted on the same port."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from command_process import environment
from services.engine import Engine, free_port

# A guard against hanging; an answer takes milliseconds.
ANSWER_S_MAX = 90.0


class ServerProcess(Engine):
    """A server of one test. `url` is where it listens; `call` speaks to it without our own client."""

    def __init__(self, folder: Path, log_url: str, *options: str, **variables: str) -> None:
        self.port = free_port()
        self._is_tls = "--tls-cert" in options
        self.url = f"{'https' if self._is_tls else 'http'}://127.0.0.1:{self.port}"
        self.log_url = log_url
        # Goes with every call, if it is set.
        self.token: str | None = None
        command = [sys.executable, "-m", "runstream", "serve", "--url", log_url]
        command += ["--port", str(self.port), *options]
        super().__init__(
            command, folder, self._is_live, environment=environment(log_url, **variables)
        )

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """One request on a connection of its own. A body that is not bytes is sent as JSON."""
        sent = {"content-type": "application/json"} if body is not None else {}
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        if self.token is not None:
            sent["authorization"] = f"Bearer {self.token}"
        line = self._connection()
        try:
            line.request(method, path, raw, {**sent, **(headers or {})})
            answer = line.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            line.close()

    def _connection(self) -> http.client.HTTPConnection:
        if not self._is_tls:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=ANSWER_S_MAX)
        # (The certificate is one that the test has made.)
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        return http.client.HTTPSConnection(
            "127.0.0.1", self.port, timeout=ANSWER_S_MAX, context=trusting
        )

    def send_raw(self, *parts: bytes, hang_up: bool = False) -> bytes:
        """Write the parts to a connection; what came back until the server closed it.

        With `hang_up` nobody waits for an answer.
        """
        received: list[bytes] = []
        with socket.create_connection(("127.0.0.1", self.port), timeout=ANSWER_S_MAX) as line:
            with suppress(ConnectionError):  # it may have heard enough, and say so
                for part in parts:
                    line.sendall(part)
            if hang_up:
                return b""
            with suppress(ConnectionError):
                while part := line.recv(65536):
                    received.append(part)
        return b"".join(received)

    def _is_live(self) -> bool:
        with suppress(OSError, http.client.HTTPException):
            return self.call("GET", "/healthz/live").status == 200
        return False


class Reply:
    """An answer; `json` is its body. The names of `headers` are in lower case."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = {name.lower(): value for name, value in headers.items()}
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:500]!r}>"


@contextmanager
def running_server(
    folder: Path, log_url: str, *options: str, **variables: str
) -> Generator[ServerProcess]:
    """A server over `log_url` for the time of the block.

    `options` as on the command line of `runstream serve`, `variables` for its environment. Stop or kill it
    with the methods of `Engine`; `restart()` is `kill -9`, and a start on the same port.
    """
    server = ServerProcess(folder, log_url, *options, **variables)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerProcess]:
    """A server that the tests of this session share, over an embedded log: use run ids of your own."""
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, f"sqlite:{folder}/events.db") as running:
        yield running


@pytest.fixture
def server(tmp_path: Path, sqlite_url: str) -> Generator[ServerProcess]:
    """A server of this test alone, over an embedded log (`server.log_url`) in its folder."""
    folder = tmp_path / "server"
    folder.mkdir()
    with running_server(folder, sqlite_url) as running:
        yield running
