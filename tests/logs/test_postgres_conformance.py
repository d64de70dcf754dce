"""The PostgreSQL log keeps every promise."""

from __future__ import annotations

import asyncio

import pytest

from runstream.conformance import CHECKS, log_factory
from runstream.conformance.check import REMOTE_CHECK_S_MAX, Check


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.area}-{check.name}")
async def test_a_postgres_log_keeps_the_promise(check: Check, postgres_url: str) -> None:
    async with asyncio.timeout(REMOTE_CHECK_S_MAX):
        await check.run(log_factory(postgres_url))
