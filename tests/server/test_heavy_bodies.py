"""Requests that are within every limit and take long to look at: others are served meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from asgi_call import call
from runstream.logs.memory import MemoryLog
from runstream.server.app import App, create_app

KIND = b'{"kind":"k","data":%b}'
JSON = {"content-type": "application/json"}
# In a list as deep as is taken.
CHAIN = b"[" * 99 + b"]" * 99
# By their values: what takes long to make (and the garbage collector to look at), to look at, or both.
HEAVY = {
    "lists": b"[]",
    "lists in lists": b"[[]]",
    "objects": b"{}",
    "deep": CHAIN,
    "texts": b'"["',
    "large numbers": b"1e300",
    "large numbers and lists": b"1e300,[]",
    "line breaks": b"[]\n",
    "ids like numbers": b'"1e100a0b"',
}
# Records of a request, and the bytes of each: few large ones, many small ones, within 4 MiB.
SIZES = [(4, 1024 * 1024 - 200), (1000, 4000)]


def filled(value: bytes, size_bytes: int) -> bytes:
    return b"[%b]" % b",".join([value] * (size_bytes // (len(value) + 1)))


@pytest.fixture
async def app() -> AsyncGenerator[App]:
    log = MemoryLog()
    await log.open("r", producer=None, workflow="w")
    made = create_app(log)
    async with made.lifespan():
        yield made


# (The guard of all tests fails one in which the loop stands still.)
@pytest.mark.parametrize(("records", "size_bytes"), SIZES, ids=["few", "many"])
@pytest.mark.parametrize("value", HEAVY.values(), ids=list(HEAVY))
async def test_while_a_heavy_body_is_looked_at_others_are_answered(
    app: App, value: bytes, records: int, size_bytes: int
) -> None:
    event = KIND % filled(value, size_bytes)
    body = b'{"events":[%b]}' % b",".join([event] * records)
    appending = asyncio.create_task(call(app, "POST", "/v1/runs/r/events", JSON, body))
    answered = 0
    while not appending.done():
        assert (await call(app, "GET", "/healthz")).status == 200
        await asyncio.sleep(0)
        answered += 1
    assert appending.result().json["last_seq"] == records
    assert answered > records // 100 + 4


async def test_a_record_that_is_too_deep_is_refused_wherever_it_is_looked_at(app: App) -> None:
    for size_bytes in SIZES[1][1], SIZES[0][1]:
        body = b'{"events":[%b]}' % (KIND % filled(b"[%b]" % CHAIN, size_bytes))
        answer = await call(app, "POST", "/v1/runs/r/events", JSON, body)
        assert (answer.status, answer.json["code"]) == (400, "invalid_payload")
