"""What the tests of workflows, runners and pipelines share: looking at a run's stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from runstream import Handler, Record, process


@pytest.fixture(autouse=True)
async def own_log(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Runs without an explicit URL go to a log of the test's own."""
    monkeypatch.setenv("RUNSTREAM_URL", sqlite_url)
    yield sqlite_url
    await asyncio.to_thread(process.close_publishers)


async def records_of(handler: Handler) -> list[Record]:
    """All records of a run, to its end."""
    return [record async for record in handler.subscribe()]


async def kinds_of(handler: Handler) -> list[str]:
    """The records of a run in short: `step.started one#1`, `run.completed`, `Progress one#1`."""
    return [
        f"{record.kind} {record.step}#{record.attempt}" if record.step else record.kind
        for record in await records_of(handler)
    ]


async def until(condition: Callable[[], object], within: float = 30.0) -> None:
    """Wait until `condition` holds, looking at it between other things."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.001)
