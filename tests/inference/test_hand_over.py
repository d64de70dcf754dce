from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from runstream.errors import InferenceFailed
from runstream.inference import pace
from runstream.inference.assembly import Piece
from runstream.inference.hand_over import PIECES_MAX, HandOver


def whole(piece: Piece) -> Piece:
    """What is in a chunk that is a piece."""
    return piece


async def in_thread(hand_over: HandOver, count: int) -> int:
    """Put pieces from a thread until nobody wants more; how many were wanted."""

    def fill() -> int:
        for number in range(count):
            if not hand_over.put(Piece(str(number))):
                return number
        hand_over.end()
        return count

    return await asyncio.to_thread(fill)


async def test_every_piece_comes_once_and_in_order() -> None:
    hand_over = HandOver(whole)
    filling = asyncio.ensure_future(in_thread(hand_over, 5000))
    got = [int(piece.content or "") async for piece in iterate(hand_over)]
    assert got == list(range(5000))
    assert await filling == 5000
    assert await hand_over.take() is None


async def iterate(hand_over: HandOver) -> AsyncIterator[Piece]:
    while (piece := await hand_over.take()) is not None:
        yield piece


async def test_a_slow_reader_holds_the_engine_at_the_limit() -> None:
    hand_over = HandOver(whole)
    reached = threading.Event()
    put: list[int] = []

    def fill() -> None:
        for number in range(PIECES_MAX * 3):
            put.append(number)
            if number == PIECES_MAX - 1:
                reached.set()
            hand_over.put(Piece("x"))
        hand_over.end()

    filling = asyncio.ensure_future(asyncio.to_thread(fill))
    await asyncio.to_thread(reached.wait)
    assert len(put) == PIECES_MAX
    for _ in range(PIECES_MAX // 2 - 1):
        await hand_over.take()
    assert len(put) == PIECES_MAX  # it goes on when half of them are taken
    assert len([piece async for piece in iterate(hand_over)]) == PIECES_MAX * 5 // 2 + 1
    await filling


async def test_a_reader_that_leaves_frees_an_engine_that_waits() -> None:
    hand_over = HandOver(whole)
    filling = asyncio.ensure_future(in_thread(hand_over, PIECES_MAX * 2))
    await hand_over.take()
    hand_over.leave()
    assert await filling <= PIECES_MAX + 1
    assert not hand_over.put(Piece("x"))


LONG = 10**9


@pytest.mark.parametrize(
    "limits",
    [
        {"FAST_CHUNK_S": LONG, "NAP_S_MAX": 600.0, "NAP_CHUNKS_MAX": LONG},
        {"FAST_CHUNK_S": 0.0, "LINGER_SHARE": LONG},
    ],
    ids=["naps", "lingers"],
)
async def test_a_reader_that_leaves_wakes_an_engine_s_thread_that_rests(
    monkeypatch: pytest.MonkeyPatch, limits: dict[str, float]
) -> None:
    # Each chunk from the fourth one on is worth a rest, and rests are longer than any test.
    for name, value in {"READY_S": -LONG, **limits}.items():
        monkeypatch.setattr(pace, name, value)
    hand_over = HandOver(whole)
    filling = asyncio.ensure_future(in_thread(hand_over, 10))
    for _ in range(pace.RECENT_CHUNKS):
        await hand_over.take()
    assert not filling.done()
    hand_over.leave()
    hand_over.leave()
    async with asyncio.timeout(30):
        assert await filling == pace.RECENT_CHUNKS - 1  # the one after which it rested is refused


async def paused(monkeypatch: pytest.MonkeyPatch) -> HandOver:
    """That of a fast engine, whose next chunk announces others that would wake the reader, and don't come."""
    monkeypatch.setattr(pace, "READY_S", -LONG)
    monkeypatch.setattr(pace, "FAST_CHUNK_S", LONG)
    hand_over = HandOver(whole)
    for _ in range(pace.RECENT_CHUNKS):
        hand_over.put(Piece("x"))
        await hand_over.take()
    monkeypatch.setattr(pace, "READY_S", LONG)
    return hand_over


async def test_a_reader_of_a_fast_engine_that_stops_for_a_while_gets_what_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hand_over = await paused(monkeypatch)
    taking = asyncio.ensure_future(hand_over.take())
    await asyncio.sleep(0)
    hand_over.put(Piece("last"))
    async with asyncio.timeout(30):
        assert await taking == Piece("last")


async def test_a_reader_looks_for_itself_once_and_then_waits_for_a_fast_engine_that_has_paused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hand_over = await paused(monkeypatch)
    looked = asyncio.Event()
    looks: list[float] = []
    loop = asyncio.get_running_loop()

    def look_at_once(after_s: float, resolve: Callable[..., None], waiter: Any) -> asyncio.Handle:
        looks.append(after_s)
        loop.call_soon(looked.set)
        return loop.call_soon(resolve, waiter)

    monkeypatch.setattr(loop, "call_later", look_at_once)
    taking = asyncio.ensure_future(hand_over.take())
    async with asyncio.timeout(30):
        await looked.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(looks) == 1
    hand_over.put(Piece("next"))
    assert await taking == Piece("next")


async def test_an_error_comes_after_the_pieces_before_it_and_the_first_one_counts() -> None:
    hand_over = HandOver(whole)
    hand_over.put(Piece("x"))
    hand_over.end(InferenceFailed("first"))
    hand_over.end(InferenceFailed("second"))
    assert await hand_over.take() == Piece("x")
    for _ in range(2):
        with pytest.raises(InferenceFailed, match="first"):
            await hand_over.take()


async def test_cancelling_a_take_loses_nothing() -> None:
    hand_over = HandOver(whole)
    for _ in range(3):
        taking = asyncio.ensure_future(hand_over.take())
        await asyncio.sleep(0)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
    filling = asyncio.ensure_future(in_thread(hand_over, 1))
    assert await hand_over.take() == Piece("0")
    await filling


async def test_two_readers_at_once_are_refused() -> None:
    hand_over = HandOver(whole)
    taking = asyncio.ensure_future(hand_over.take())
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="already being read"):
        await hand_over.take()
    hand_over.end()
    assert await taking is None


def test_an_engine_that_outlives_the_loop_is_told_that_nobody_reads() -> None:
    async def begin() -> HandOver:
        hand_over = HandOver(whole)
        taking = asyncio.ensure_future(hand_over.take())
        await asyncio.sleep(0)
        assert not taking.done()
        return hand_over

    hand_over = asyncio.run(begin())
    hand_over.put(Piece("x"))  # the loop is closed
    hand_over.end()
