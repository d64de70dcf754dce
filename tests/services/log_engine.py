"""What tests ask of an engine that a log can be on, whichever it is; fixtures that give them each one."""

from __future__ import annotations

from typing import Final, Protocol, cast

import pytest

ENGINES: Final = ("redis", "postgres", "nats")


class LogEngine(Protocol):
    """An engine of one test. Its methods block: in a coroutine call them with `asyncio.to_thread`."""

    port: int
    # Of its log.
    url: str
    # Connections that a process holds to it at most: what the log's page says.
    connections_max: int
    # A part of the request that opens a run, and of no earlier one.
    opening: bytes

    def url_at(self, port: int) -> str:
        """The URL of its log through a proxy's port."""
        ...

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def restart(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def connections(self) -> int:
        """How many a log has to it now."""
        ...

    def empty(self) -> None:
        """Take everything away that is stored, behind the log's back."""
        ...

    def fill(self) -> None:
        """Leave room for little more (20 MiB at most)."""
        ...

    def make_room(self) -> None:
        """Let it store again."""
        ...

    def stored_of(self, run_id: str) -> int:
        """How many things it keeps of a run, beside those of other ones (their children have to end)."""
        ...


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> LogEngine:
    """Each engine of a log in turn, of this test alone."""
    return cast(LogEngine, request.getfixturevalue(f"{request.param}_server"))


@pytest.fixture(params=ENGINES)
def engine_url(request: pytest.FixtureRequest) -> str:
    """The URL of a log on each engine in turn, which the tests of this session share."""
    return cast(str, request.getfixturevalue(f"{request.param}_url"))
