"""`redis-server` for tests: durable unless it is told otherwise, and small."""

from __future__ import annotations

import socket
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from .engine import START_S_MAX, Engine, find_program, free_port, is_free


class RedisServer(Engine):
    """A Redis of one test. `url` is that of its log; `call` speaks to it without our own code."""

    connections_max = 3
    opening = b"EVALSHA"

    def __init__(self, folder: Path, *options: str, password: str | None = None) -> None:
        self.port = _port_for_two() if "--cluster-enabled" in options else free_port()
        self.folder = folder
        self.password = password
        self.url = self.url_at(self.port)
        command = [find_program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"]
        command += ["--dir", str(folder), "--save", "", "--protected-mode", "no"]
        command += ["--appendonly", "yes", "--appendfsync", "always"]
        command += ["--requirepass", password] if password else []
        # The later one of two options counts.
        super().__init__([*command, *options], folder, self._answers)

    def url_at(self, port: int) -> str:
        """Its URL through a proxy's port."""
        secret = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"redis://{secret}127.0.0.1:{port}/0"

    def connections(self) -> int:
        return self.call("CLIENT", "LIST").count("name=runstream")

    def empty(self) -> None:
        self.call("FLUSHALL")

    def fill(self) -> None:
        assert self.call("CONFIG", "SET", "maxmemory", "1") == "+OK"

    def make_room(self) -> None:
        assert self.call("CONFIG", "SET", "maxmemory", "0") == "+OK"

    def stored_of(self, run_id: str) -> int:
        # (What tells a repeated call stays for a minute.)
        keys = self.call("KEYS", f"runstream:{{{run_id}}}*")
        return keys.count("runstream:") - keys.count(":once:")

    def call(self, *words: str, timeout: float = 10.0) -> str:
        """The raw reply to one command."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as line:
            if self.password:
                line.sendall(_encoded("AUTH", self.password))
                line.recv(1000)
            line.sendall(_encoded(*words))
            return line.recv(65536).decode(errors="replace").strip()

    def _answers(self) -> bool:
        with suppress(OSError):
            # While it reads its file it answers with "LOADING".
            return self.call("PING") == "+PONG"
        return False


def _port_for_two() -> int:
    """A port whose neighbour 10 000 further, on which nodes of a cluster meet, is free like itself."""
    while True:
        port = free_port()
        if is_free(port + 10_000):
            return port


def _encoded(*words: str) -> bytes:
    parts = [f"${len(word.encode())}\r\n{word}\r\n" for word in words]
    return f"*{len(words)}\r\n{''.join(parts)}".encode()


@contextmanager
def running_redis(
    folder: Path, *options: str, password: str | None = None
) -> Generator[RedisServer]:
    """A Redis with its data in `folder` for the time of the block; `options` as on its command line."""
    server = RedisServer(folder, *options, password=password)
    try:
        server.start()
        yield server
    finally:
        server.kill()


CLUSTER_NODES = 3
_SLOTS = 16384
# How long a node is silent before the others replace it; where nobody can, they refuse everything meanwhile,
# so there it is longer than a loaded machine lets any of them wait.
_SILENT_MS, _SILENT_ALONE_MS = 2000, 60_000


@contextmanager
def running_cluster(folder: Path, *, replicas: int = 0) -> Generator[list[RedisServer]]:
    """A Redis Cluster of three masters, and a replica for each of the first `replicas` ones. The URL of
    each node is that of the same log.
    """
    silent_ms = _SILENT_MS if replicas else _SILENT_ALONE_MS
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", str(silent_ms))
    with ExitStack() as running:
        nodes: list[RedisServer] = []
        for number in range(CLUSTER_NODES + replicas):
            place = folder / str(number)
            place.mkdir()
            nodes.append(running.enter_context(running_redis(place, *options)))
        for number, node in enumerate(nodes[:CLUSTER_NODES]):
            slots = range(number * _SLOTS // CLUSTER_NODES, (number + 1) * _SLOTS // CLUSTER_NODES)
            assert node.call("CLUSTER", "ADDSLOTS", *map(str, slots)) == "+OK"
        for node in nodes[1:]:
            nodes[0].call("CLUSTER", "MEET", "127.0.0.1", str(node.port))
        for node in nodes:
            _wait_for(node, "CLUSTER INFO", "cluster_state:ok", f"cluster_known_nodes:{len(nodes)}")
        for master, replica in zip(nodes, nodes[CLUSTER_NODES:], strict=False):
            name = master.call("CLUSTER", "MYID").split()[-1]
            assert replica.call("CLUSTER", "REPLICATE", name) == "+OK"
            _wait_for(replica, "INFO replication", "master_link_status:up")
        yield nodes


def _wait_for(node: RedisServer, command: str, *signs: str) -> None:
    until = time.monotonic() + START_S_MAX
    while not all(sign in (said := node.call(*command.split())) for sign in signs):
        assert time.monotonic() < until, said
        time.sleep(0.02)


@pytest.fixture(scope="session")
def redis_cluster(tmp_path_factory: pytest.TempPathFactory) -> Generator[list[RedisServer]]:
    """The nodes of a cluster that the tests of this session share: use run ids of your own."""
    with running_cluster(tmp_path_factory.mktemp("redis-cluster")) as nodes:
        yield nodes


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    """The URL of a Redis log that the tests of this session share: use run ids of your own."""
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def redis_server(tmp_path: Path) -> Generator[RedisServer]:
    """A Redis of this test alone."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder) as server:
        yield server
