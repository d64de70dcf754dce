"""One log of each kind, started for a measurement; in the order in which the pages name them."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from benchmarks import served
from benchmarks.engines import nats, postgresql, redis

Serving = Callable[[Path], AbstractContextManager[str]]


@contextmanager
def _memory(_folder: Path) -> Generator[str]:
    yield "memory:"


@contextmanager
def _sqlite(folder: Path) -> Generator[str]:
    yield f"sqlite:{folder}/events.db"


@contextmanager
def _http(folder: Path) -> Generator[str]:
    with served.serving(f"sqlite:{folder}/events.db") as server:
        yield server.url


# What a reader knows it as -> a context manager that gives the URL of such a log, with its data in a folder.
LOGS: dict[str, Serving] = {
    "memory": _memory,
    "SQLite": _sqlite,
    "server": _http,
    "Redis": redis.serving,
    "NATS": nats.serving,
    "PostgreSQL": postgresql.serving,
}
