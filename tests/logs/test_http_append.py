"""Appends in several requests, some of them under way at once: in order, exactly once, whatever happens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from runstream.admission import admit
from runstream.errors import InvalidInput, LogUnavailable, NumberGap, RunEnded, RunstreamError
from runstream.log import Appended, Producer, ProducerState
from runstream.logs.http import HttpLog
from runstream.logs.http_append import SMALL_BYTES_MAX, UNDER_WAY_MAX
from runstream.logs.http_transport import Times
from runstream.problem import problem_of
from runstream.record import Draft, make_draft
from scripted_server import Line, Request, ScriptedServer, answer, problem, scripted_server

PRODUCER = Producer("p", 0, 1)
# Of a request here.
RECORDS = 3
TEST_S_MAX = 90.0

Handle = Callable[["Store", int, Line], Awaitable[None]]


class Store:
    """What a server does with batches, in the terms of the log; a test says what befalls a request.

    `numbers` are those of the records that were stored, in their order.
    """

    def __init__(self, handle: Handle) -> None:
        self.numbers: list[int] = []
        self.finals: list[bool] = []
        self.asked: list[int] = []
        self.under_way = self.under_way_most = 0
        self._handle = handle
        self._state: ProducerState | None = None
        self._request: dict[int, bytes] = {}

    async def script(self, request: Request, line: Line) -> None:
        first: int = json.loads(request.body)["producer"]["number"]
        self.asked.append(first)
        self._request[first] = request.body
        self.under_way += 1
        self.under_way_most = max(self.under_way_most, self.under_way)
        try:
            await self._handle(self, first, line)
        finally:
            self.under_way -= 1

    def store(self, first: int) -> bytes:
        """The answer to the request with that number."""
        body = json.loads(self._request[first])
        numbers = [event["data"]["n"] for event in body["events"]]
        try:
            state, known = admit(self._state, Producer("p", 0, first), len(numbers))
        except RunstreamError as error:
            found = problem_of(error)
            return problem(found.status, found.code)
        if known is None:
            self.numbers += numbers
            self.finals += [False] * (len(numbers) - 1) + [body["final"]]
            last = len(self.numbers)
            known = Appended(last - len(numbers) + 1, last)
            number = first + len(numbers) - 1
            self._state = ProducerState(state.epoch, number, first, known.first_seq, last)
        fields = ("first_seq", "last_seq", "duplicates")
        return answer(200, {name: getattr(known, name) for name in fields})


async def store_at_once(store: Store, first: int, line: Line) -> None:
    await line.send(store.store(first))


@asynccontextmanager
async def log_over(store: Store) -> AsyncGenerator[tuple[HttpLog, ScriptedServer]]:
    async with asyncio.timeout(TEST_S_MAX), scripted_server(store.script) as server:
        log = HttpLog(server.url, request_records_max=RECORDS, times=Times(persist_s=TEST_S_MAX))
        try:
            yield log, server
        finally:
            await log.aclose()


def drafts(count: int, size: int = 0) -> list[Draft]:
    return [make_draft("r1", "x", {"n": n, "text": "x" * size}) for n in range(1, count + 1)]


async def test_several_requests_of_an_append_are_under_way_but_not_too_many() -> None:
    all_there = asyncio.Event()

    async def handle(store: Store, first: int, line: Line) -> None:
        # The first one is answered only when there are others.
        if store.under_way == UNDER_WAY_MAX:
            all_there.set()
        await all_there.wait()
        await store_at_once(store, first, line)

    store = Store(handle)
    async with log_over(store) as (log, _):
        stored = await log.append("r1", drafts(20), producer=PRODUCER, final=True)
    assert stored == Appended(1, 20)
    assert store.numbers == list(range(1, 21))
    assert store.finals == [False] * 19 + [True]
    assert store.under_way_most == UNDER_WAY_MAX


async def test_a_request_that_overtakes_the_one_before_it_goes_again() -> None:
    """The first one is held up until the second one has been refused for the hole that it leaves."""
    refused = asyncio.Event()

    async def handle(store: Store, first: int, line: Line) -> None:
        if first == 1:
            await refused.wait()
        await store_at_once(store, first, line)
        if first == 1 + RECORDS:
            refused.set()

    store = Store(handle)
    async with log_over(store) as (log, _):
        stored = await log.append("r1", drafts(12), producer=PRODUCER)
    assert stored == Appended(1, 12)
    assert store.numbers == list(range(1, 13))
    assert store.asked.count(1) == 1
    assert store.asked.count(4) == 2


async def test_large_requests_go_one_after_the_other() -> None:
    store = Store(store_at_once)
    async with log_over(store) as (log, _):
        await log.append("r1", drafts(12, size=SMALL_BYTES_MAX // RECORDS), producer=PRODUCER)
    assert store.numbers == list(range(1, 13))
    assert store.under_way_most == 1


async def test_a_reply_that_is_lost_while_the_next_request_is_stored_doubles_nothing() -> None:
    behind = asyncio.Event()

    async def handle(store: Store, first: int, line: Line) -> None:
        reply = store.store(first)
        if first == 1 and store.asked.count(1) == 1:
            await behind.wait()
            line.cut()
            return
        await line.send(reply)
        behind.set()

    store = Store(handle)
    async with log_over(store) as (log, _):
        stored = await log.append("r1", drafts(9), producer=PRODUCER)
    assert store.asked.count(1) == 2
    assert store.numbers == list(range(1, 10))
    assert stored.last_seq == 9


async def test_the_refusal_of_a_request_is_told_and_not_the_hole_that_it_leaves() -> None:
    behind = asyncio.Event()

    async def handle(store: Store, first: int, line: Line) -> None:
        if first == 4:
            await behind.wait()
            await line.send(problem(409, "run_ended"))
            return
        await store_at_once(store, first, line)
        if first == 7:
            behind.set()

    store = Store(handle)
    async with log_over(store) as (log, _):
        with pytest.raises(RunEnded):
            await log.append("r1", drafts(30), producer=PRODUCER)
    assert store.numbers == [1, 2, 3]
    assert max(store.asked) <= 1 + RECORDS * UNDER_WAY_MAX


async def test_a_hole_that_nothing_fills_is_an_error() -> None:
    async def handle(store: Store, first: int, line: Line) -> None:
        if first == 7:
            await line.send(problem(409, "number_gap"))
        else:
            await store_at_once(store, first, line)

    store = Store(handle)
    async with log_over(store) as (log, _):
        with pytest.raises(NumberGap):
            await log.append("r1", drafts(12), producer=Producer("p", 0, 2))
        assert 2 in store.asked
        assert store.numbers == []
        store.asked.clear()
        with pytest.raises(NumberGap):
            await log.append("r1", drafts(12), producer=PRODUCER)
    assert store.asked.count(7) == 2
    assert store.numbers == [1, 2, 3, 4, 5, 6]


async def test_an_append_that_is_cancelled_leaves_a_log_that_goes_on() -> None:
    held = asyncio.Event()

    async def handle(store: Store, first: int, line: Line) -> None:
        if first == 4 and store.asked.count(4) == 1:
            held.set()
            await asyncio.Event().wait()
        await store_at_once(store, first, line)

    store = Store(handle)
    async with log_over(store) as (log, _):
        append = asyncio.create_task(log.append("r1", drafts(9), producer=PRODUCER))
        await held.wait()
        append.cancel()
        with pytest.raises(asyncio.CancelledError):
            await append
        await log.append("r1", drafts(9), producer=PRODUCER)
    assert store.numbers == list(range(1, 10))


@pytest.mark.parametrize("seed", range(12))
async def test_any_order_and_any_loss_store_everything_once_and_in_order(seed: int) -> None:
    """As a publisher does, appends are repeated unchanged until they are answered."""
    chance = random.Random(seed)

    async def handle(store: Store, first: int, line: Line) -> None:
        for _ in range(chance.choice((0, 0, 3, 20))):
            await asyncio.sleep(0)
        fate = chance.random()
        if fate < 0.05:
            line.cut()  # before it was stored
            return
        if fate < 0.1:
            await line.send(problem(503, "log_unavailable"))
            return
        reply = store.store(first)
        for _ in range(chance.choice((0, 0, 3, 20))):
            await asyncio.sleep(0)
        if fate < 0.15:
            line.cut()  # its reply is lost
            return
        await line.send(reply)

    store = Store(handle)
    everything = drafts(90)
    async with log_over(store) as (log, _):
        for start in range(0, 90, 30):
            producer = Producer("p", 0, start + 1)
            while True:
                with contextlib.suppress(LogUnavailable):
                    await log.append("r1", everything[start : start + 30], producer=producer)
                    break
    assert store.numbers == list(range(1, 91))


async def test_what_a_server_refuses_for_good_ends_the_append_at_once() -> None:
    async def handle(_store: Store, _first: int, line: Line) -> None:
        await line.send(problem(400, "invalid_input"))

    store = Store(handle)
    async with log_over(store) as (log, _):
        with pytest.raises(InvalidInput):
            await log.append("r1", drafts(30), producer=PRODUCER)
    assert len(store.asked) <= UNDER_WAY_MAX
