"""The Redis log keeps every promise, on one server and on a cluster."""

from __future__ import annotations

import asyncio

import pytest

from runstream.conformance import CHECKS, log_factory
from runstream.conformance.check import REMOTE_CHECK_S_MAX, Check


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.area}-{check.name}")
async def test_a_redis_log_keeps_the_promise(check: Check, redis_url: str) -> None:
    async with asyncio.timeout(REMOTE_CHECK_S_MAX):
        await check.run(log_factory(redis_url))
