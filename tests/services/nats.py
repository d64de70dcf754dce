"""`nats-server` for tests, with JetStream in a file."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from .engine import Engine, find_program, free_port, free_ports

# A guard against hanging: servers that have just started elect each leader within ten seconds.
ELECTED_S_MAX = 120.0


class NatsServer(Engine):
    """A NATS of one test. `url` is that of its log."""

    connections_max = 1
    opening = b"RUNSTREAM.changes"

    def __init__(
        self, folder: Path, *options: str, port: int | None = None, jetstream: bool = True
    ) -> None:
        self.port = port or free_port()
        self.url = self.url_at(self.port)
        self.folder = folder
        command = [
            find_program("nats-server", "/usr/sbin", "/usr/local/sbin"),
            "-a",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        self._greeting = b'"jetstream":true' if jetstream else b"INFO"
        if jetstream:
            command += ["-js", "-sd", str(folder / "jetstream")]
        super().__init__([*command, *options], folder, self._answers)

    def url_at(self, port: int) -> str:
        """Its URL through a proxy's port."""
        return f"nats://127.0.0.1:{port}"

    def empty(self) -> None:
        self.drop_streams()

    def fill(self) -> None:
        self._limit("8MB")

    def make_room(self) -> None:
        self._limit("1GB")

    def stored_of(self, run_id: str) -> int:
        info = self.api("STREAM.INFO.RUNSTREAM", {"subjects_filter": ">"})
        return sum(run_id in subject.split(".") for subject in info["state"].get("subjects", ()))

    def _limit(self, size: str) -> None:
        """How much it stores at most; it is read when it starts."""
        options = self.folder / "limit.conf"
        options.write_text(f"jetstream {{ max_file_store: {size} }}\n", encoding="utf-8")
        if "-c" not in self.command:
            self.command += ["-c", str(options)]
        self.restart()

    def api(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream, behind the log's back."""
        answer = self._ask(f"$JS.API.{name}", b"" if body is None else json.dumps(body).encode())
        assert "error" not in answer, answer
        return answer

    def publish(self, subject: str, body: dict[str, Any]) -> None:
        """Have JetStream store a message, behind the log's back."""
        self._ask(subject, json.dumps(body).encode())

    def connections(self) -> int:
        """How many connections the server has."""
        lines = Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]
        here = f"0100007F:{self.port:04X}"
        return sum(words[1] == here and words[3] == "01" for words in map(str.split, lines))

    def drop_streams(self, *names: str) -> None:
        """Drop what is stored, behind the log's back."""
        for name in names or ("RUNSTREAM", "RUNSTREAM_RUNS"):
            self.api(f"STREAM.DELETE.{name}")

    def _ask(self, subject: str, data: bytes) -> dict[str, Any]:
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=10.0) as line,
            line.makefile("rb") as said,
        ):
            line.sendall(b'CONNECT {"verbose":false}\r\nSUB done 1\r\n')
            line.sendall(f"PUB {subject} done {len(data)}\r\n".encode() + data + b"\r\n")
            for words in map(bytes.split, said):  # (It may say other things too.)
                if words[:2] == [b"MSG", b"done"]:
                    answer: dict[str, Any] = json.loads(said.read(int(words[-1])))
                    return answer
        raise ConnectionError("the server has gone")

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1.0) as line:
            return self._greeting in line.recv(4096)
        return False


@contextmanager
def running_nats(folder: Path, *options: str, jetstream: bool = True) -> Generator[NatsServer]:
    """A NATS with its data in `folder` for the time of the block; `options` as on its command line."""
    server = NatsServer(folder, *options, jetstream=jetstream)
    try:
        server.start()
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


class NatsCluster:
    """Servers that store everything together. `url` is that of a log with as many replicas."""

    def __init__(self, folder: Path, size: int) -> None:
        ports = free_ports(2 * size)
        routes = ",".join(f"nats://127.0.0.1:{port}" for port in ports[size:])
        self.servers: list[NatsServer] = []
        for number, (port, route) in enumerate(zip(ports[:size], ports[size:], strict=True)):
            home = folder / f"nats-{number}"
            home.mkdir()
            options = ["--name", f"n{number}", "--cluster_name", "tests", "--routes", routes]
            options += ["--cluster", f"nats://127.0.0.1:{route}"]
            self.servers.append(NatsServer(home, *options, port=port))
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        self.url = f"nats://{hosts}?replicas={size}"

    def start(self) -> None:
        """Start all, and wait until they have found each other: until then they refuse streams."""
        for server in self.servers:
            server.start()
        deadline = time.monotonic() + ELECTED_S_MAX
        while not self._is_ready():
            assert time.monotonic() < deadline, "the servers do not find each other"
            time.sleep(0.1)

    def kill(self) -> None:
        """All of them."""
        for server in self.servers:
            server.kill()

    def leader(self, stream: str = "RUNSTREAM") -> NatsServer:
        """Who leads a stream now, as somebody says who is there."""
        deadline = time.monotonic() + ELECTED_S_MAX
        while time.monotonic() < deadline:
            for server in self.servers:
                with suppress(OSError, AssertionError):
                    leader = server.api(f"STREAM.INFO.{stream}")["cluster"].get("leader")
                    if leader:
                        return self.servers[int(leader[1:])]
            time.sleep(0.1)
        raise AssertionError(f"{stream} has no leader")

    def wait_leaders(self) -> None:
        """Return when both streams of a log have a leader: each elects its own, in its own time."""
        for stream in ("RUNSTREAM", "RUNSTREAM_RUNS"):
            self.leader(stream)

    def _is_ready(self) -> bool:
        probe = {"name": "PROBE", "subjects": ["probe"], "num_replicas": len(self.servers)}
        with suppress(OSError, AssertionError):
            self.servers[0].api("STREAM.CREATE.PROBE", probe)
            self.servers[0].api("STREAM.DELETE.PROBE")
            return True
        return False


@contextmanager
def running_nats_cluster(folder: Path, size: int = 3) -> Generator[NatsCluster]:
    """A cluster with its data in `folder` for the time of the block."""
    cluster = NatsCluster(folder, size)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()


@pytest.fixture(scope="session")
def nats_cluster_of_session(tmp_path_factory: pytest.TempPathFactory) -> Generator[NatsCluster]:
    with running_nats_cluster(tmp_path_factory.mktemp("nats-cluster")) as cluster:
        yield cluster


@pytest.fixture
def nats_cluster(nats_cluster_of_session: NatsCluster) -> Generator[NatsCluster]:
    """One cluster for the whole session, for it takes seconds to start: for tests that use run ids of
    their own. They may kill and pause its servers.
    """
    yield nats_cluster_of_session
    for server in nats_cluster_of_session.servers:
        if server.returncode is None:
            server.resume()
        else:
            server.start()
