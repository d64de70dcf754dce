"""What the tests of runs and of publishing share: each embedded log, and looks into it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from runstream import (
    Record,
    RunstreamError,
    connect,
    process,
)
from runstream.log import RunInfo

PATIENCE_S = 90.0


@pytest.fixture(autouse=True)
def closed_publishers() -> Generator[None]:
    yield
    process.close_publishers()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, sqlite_url: str) -> Generator[str]:
    """Each embedded log. Held open here, as a memory log lives only as long as it is used."""
    url = "memory:" if request.param == "memory" else sqlite_url
    with connect(url):
        yield url


def records(url: str, run_id: str) -> list[Record]:
    with connect(url) as streams:
        return list(streams.subscribe(run_id, follow=False))


def kinds(url: str, run_id: str) -> list[str]:
    return [record.kind for record in records(url, run_id)]


def info(url: str, run_id: str) -> RunInfo:
    with connect(url) as streams:
        return streams.info(run_id)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.005)


def refuses(publish: Callable[[Any], None]) -> bool:
    try:
        publish({"n": "late"})
    except RunstreamError:
        return True
    return False


async def kinds_followed(streams: Any, run_id: str) -> list[str]:
    return [record.kind async for record in streams.subscribe(run_id)]
