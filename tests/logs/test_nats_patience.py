"""A call to NATS is given up when the server is silent, not while others are answered before it."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from runstream.errors import LogUnavailable
from runstream.logs import nats_patience
from runstream.logs.nats_patience import Patience

ANSWER_S = 0.2


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_patience, "ANSWER_S_MAX", ANSWER_S)


async def hear_until(patience: Patience, end: float) -> None:
    """Others are answered all the time."""
    while asyncio.get_running_loop().time() < end:
        patience.heard()
        await asyncio.sleep(0)


async def test_a_call_goes_on_while_others_are_answered() -> None:
    patience = Patience("nats://here")
    for _ in range(20):  # on a machine that stands still for so long the server really is silent
        with contextlib.suppress(LogUnavailable):
            async with patience.in_time():
                await hear_until(patience, asyncio.get_running_loop().time() + 2 * ANSWER_S)
            return
    pytest.fail("20 calls were given up while others were answered")


async def test_a_call_is_given_up_when_nobody_is_answered() -> None:
    patience = Patience("nats://here")
    patience.heard()
    with pytest.raises(LogUnavailable, match="nats://here does not answer"):
        async with patience.in_time():
            await asyncio.Event().wait()


async def test_a_call_is_given_up_in_the_end_though_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nats_patience, "CALL_S_MAX", 2 * ANSWER_S)
    patience = Patience("nats://here")
    with pytest.raises(LogUnavailable):
        async with patience.in_time():
            await hear_until(patience, end=float("inf"))


async def test_each_step_of_a_list_has_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_patience, "CALL_S_MAX", 2 * ANSWER_S)
    patience = Patience("nats://here")
    loop = asyncio.get_running_loop()
    begun_at = loop.time()
    with pytest.raises(LogUnavailable):
        async with patience.in_time() as begin_anew:
            while loop.time() < begun_at + 4 * ANSWER_S:
                begin_anew()
                await asyncio.sleep(0)
            await asyncio.Event().wait()
    assert loop.time() >= begun_at + 4 * ANSWER_S


async def test_who_is_cancelled_is_told_so() -> None:
    async def call() -> None:
        async with Patience("nats://here").in_time():
            await asyncio.Event().wait()

    calling = asyncio.create_task(call())
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
