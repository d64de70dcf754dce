"""`nats-server` for tests, with JetStream in a file."""

from __future__ import annotations

import socket
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from .engine import Engine, find_program, free_port


class NatsServer(Engine):
    """A NATS of one test. `url` is that of its log."""

    def __init__(self, folder: Path, *options: str, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        command = [find_program("nats-server"), "-a", "127.0.0.1", "-p", str(self.port)]
        command += ["-js", "-sd", str(folder / "jetstream")]
        super().__init__([*command, *options], folder, self._answers)

    def drop_streams(self, *names: str) -> None:
        """Drop what is stored, behind the log's back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10.0) as line:
            line.sendall(b'CONNECT {"verbose":false}\r\nSUB done 1\r\n')
            for name in names or ("RUNSTREAM", "RUNSTREAM_RUNS"):
                line.sendall(f"PUB $JS.API.STREAM.DELETE.{name} done 0\r\n\r\n".encode())
            said = b""
            while said.count(b'"success":true') < len(names or (1, 2)):
                said += line.recv(4096)

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as line:
            return b'"jetstream":true' in line.recv(4096)
        return False


@contextmanager
def running_nats(folder: Path, *options: str) -> Generator[NatsServer]:
    """A NATS with its data in `folder` for the time of the block; `options` as on its command line."""
    server = NatsServer(folder, *options)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """One NATS for the whole session: for tests that use run ids of their own."""
    with running_nats(tmp_path_factory.mktemp("nats")) as server:
        yield server.url


@pytest.fixture
def nats_server(tmp_path: Path) -> Generator[NatsServer]:
    """A NATS of this test alone, to kill, pause or fill."""
    folder = tmp_path / "nats"
    folder.mkdir()
    with running_nats(folder) as server:
        yield server
