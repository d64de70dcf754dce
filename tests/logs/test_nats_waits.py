"""Whoever waits for a run in NATS hears of it, whoever begins it, and whenever."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from opened_log import opened
from runstream.conformance.check import new_name
from runstream.errors import LogUnavailable
from runstream.logs import open_log
from services.nats import NatsServer
from services.proxy import proxy_to

# A guard against hanging.
HANG_S = 120.0


@pytest.mark.parametrize("is_root", [True, False], ids=["root", "child"])
async def test_a_run_that_is_opened_just_before_the_first_look_ends_a_wait(
    nats_server: NatsServer, is_root: bool
) -> None:
    run, root = new_name(), new_name()
    async with proxy_to(nats_server.port) as proxy, asyncio.timeout(HANG_S):
        url = nats_server.url.replace(f":{nats_server.port}", f":{proxy.port}")
        other = await asyncio.to_thread(open_log, nats_server.url)
        log = await asyncio.to_thread(open_log, url)
        await other.open(root, producer=None, workflow="w")
        proxy.hold()
        waiting = asyncio.ensure_future(log.wait(run, after=0, timeout=10 * HANG_S))
        await asyncio.sleep(0)
        # Its first look is under way, and it does not hear what is told meanwhile.
        parent = None if is_root else root
        await other.open(run, producer=None, workflow="w", parent_run_id=parent)
        proxy.flow()
        await waiting
        assert (await log.info(run)).run_id == run
        for one in (log, other):
            await one.aclose()


async def test_a_run_that_is_opened_while_somebody_waits_for_it_ends_the_wait(
    nats_server: NatsServer,
) -> None:
    run = new_name()
    async with proxy_to(nats_server.port) as proxy, asyncio.timeout(HANG_S):
        url = nats_server.url.replace(f":{nats_server.port}", f":{proxy.port}")
        other = await asyncio.to_thread(open_log, nats_server.url)
        log = await asyncio.to_thread(open_log, url)
        waiting = asyncio.ensure_future(log.wait(run, after=0, timeout=10 * HANG_S))
        await log.list()  # answered behind its first look
        # What is told while the connection is lost is told to nobody here.
        proxy.refuse()
        await other.open(run, producer=None, workflow="w")
        proxy.accept()
        await waiting
        for one in (log, other):
            await one.aclose()


async def test_connections_that_are_lost_while_they_are_made_are_closed(
    nats_server: NatsServer,
) -> None:
    """(What is left open is a warning, which fails a test.)"""
    async with (
        asyncio.timeout(HANG_S),
        proxy_to(nats_server.port) as proxy,
        opened(nats_server.url_at(proxy.port)) as log,
    ):
        await log.open("r", producer=None, workflow="w")
        proxy.refuse()
        accepted = proxy.accepted
        while proxy.accepted < accepted + 3:
            await asyncio.sleep(0.01)
        proxy.accept()
        while True:
            with contextlib.suppress(LogUnavailable):
                assert (await log.info("r")).run_id == "r"
                break
