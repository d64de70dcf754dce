"""Every log keeps every promise; and the suite notices a log that does not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from runstream.conformance import CHECKS, log_factory
from runstream.conformance.check import CHECK_S_MAX, Check, NotApplicable, OpenLog

LOGS = ("memory", "sqlite", "sqlite-process")


@pytest.fixture(params=LOGS)
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> OpenLog:
    urls = {
        "memory": "memory:",
        "sqlite": f"sqlite:{tmp_path}/events.db",
        "sqlite-process": f"sqlite:{tmp_path}/events.db?durability=process",
    }
    return log_factory(urls[request.param])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.area}-{check.name}")
async def test_a_log_keeps_the_promise(check: Check, open_log: OpenLog) -> None:
    try:
        async with asyncio.timeout(CHECK_S_MAX):
            await check.run(open_log)
    except NotApplicable as reason:
        assert not open_log.reopens
        pytest.skip(str(reason))
