"""The room of an outbox: what a full queue does, who waits and who gives way."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from runstream.errors import (
    LeaseLost,
    LogUnavailable,
    QueueFull,
)
from runstream.outbox import Outbox
from runstream.record import DROPPED
from small_outbox import DOWN, PATIENCE_S, Kicks, draft, filled, numbers, outbox, taken

# --- a full queue --------------------------------------------------------------------------------


def test_raise_refuses_and_takes_again_when_there_is_room() -> None:
    box = filled(overflow="raise")
    with pytest.raises(QueueFull):
        box.put(draft(4))
    box.stored(taken(box))
    box.put(draft(5))
    assert numbers(taken(box)) == [5]


def test_block_gives_up_after_its_time() -> None:
    box = filled(overflow="block", block_s=0.01)
    with pytest.raises(QueueFull, match="has not taken a record"):
        box.put(draft(4))
    assert numbers(taken(box)) == [0, 1, 2, 3]


def blocked_put(box: Outbox, threads: ThreadPoolExecutor, number: int) -> Future[None]:
    waiting = threads.submit(box.put, draft(number))
    while not box._room.threads and not waiting.done():  # pyright: ignore[reportPrivateUsage] # nothing else tells
        threading.Event().wait(0.001)
    return waiting


def test_block_goes_on_as_soon_as_the_log_takes_something() -> None:
    box = filled(overflow="block", block_s=PATIENCE_S)
    with ThreadPoolExecutor(1) as threads:
        waiting = blocked_put(box, threads, 4)
        box.stored(taken(box))
        waiting.result(PATIENCE_S)
    assert numbers(taken(box)) == [4]


def test_block_ends_at_once_when_the_log_fails() -> None:
    box = filled(overflow="block", block_s=10 * PATIENCE_S)
    with ThreadPoolExecutor(1) as threads:
        waiting = blocked_put(box, threads, 4)
        box.failed(DOWN)
        with pytest.raises(LogUnavailable, match="disk is full"):
            waiting.result(PATIENCE_S)
    with pytest.raises(LogUnavailable, match="disk is full"):
        box.put(draft(5))
    box.stored(taken(box))
    box.put(draft(6))


def test_block_ends_at_once_when_the_outbox_is_closed() -> None:
    box = filled(overflow="block", block_s=PATIENCE_S)
    with ThreadPoolExecutor(1) as threads:
        waiting = blocked_put(box, threads, 4)
        box.close(LeaseLost("gone"))
        with pytest.raises(LeaseLost):
            waiting.result(PATIENCE_S)
    assert box.take() is None
    assert box.counts.dropped == 4


def test_drop_oldest_marks_the_loss_at_its_place(caplog: pytest.LogCaptureFixture) -> None:
    box = outbox(overflow="drop_oldest")
    box.put_always(draft(0, "run.started"))
    for number in range(1, 8):
        box.put(draft(number))
    batch = taken(box)
    kinds = [one.kind for one in batch.drafts]
    assert kinds == ["run.started", DROPPED, "token", "token", "token"]
    assert msgspec.json.decode(batch.drafts[1].data) == {"count": 4, "reason": "queue_full"}
    assert [int(bytes(one.data)) for one in batch.drafts[2:]] == [5, 6, 7]
    assert box.counts.dropped == 4
    assert len(caplog.records) == 1


def test_our_own_records_find_room_in_a_full_queue_and_are_never_dropped() -> None:
    box = filled(overflow="drop_oldest")
    assert not box.offer(draft(9, "task.progress"))
    box.put_always(draft(10, "task.started"))
    slot = box.put_latest(draft(11, "task.snapshot"))
    for number in range(20, 40):
        box.put(draft(number))
    assert slot.replace(draft(12, "task.snapshot"))
    kinds = [one.kind for one in taken(box).drafts if one.kind != "token"]
    assert kinds == [DROPPED, "task.started", "task.snapshot", DROPPED]


def test_a_warning_handler_may_publish_itself() -> None:
    box = filled(overflow="drop_oldest")

    class Republish(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            box.put(draft(99))

    handler = Republish()
    logging.getLogger("runstream.outbox").addHandler(handler)
    try:
        box.put(draft(4))
        box.failed(DOWN)
    finally:
        logging.getLogger("runstream.outbox").removeHandler(handler)
    assert taken(box).drafts[0].kind == DROPPED
    assert box.counts.dropped == 3


# --- giving way ----------------------------------------------------------------------------------


def at_work(**options: Any) -> Outbox:
    """A sender prepares four records; half of the queue behind them is full again."""
    box = filled(**({"overflow": "block", "give_way_s": 10 * PATIENCE_S} | options))
    assert box.take(prepares=True) is not None
    box.put(draft(4))
    box.put(draft(5))
    return box


def test_half_way_a_producer_gives_way_until_the_batch_is_prepared() -> None:
    box = at_work()
    with ThreadPoolExecutor(1) as threads:
        waiting = blocked_put(box, threads, 6)
        assert not waiting.done()
        box.prepared()
        waiting.result(PATIENCE_S)
    box.put(draft(7))
    box.stored(taken(box))
    assert numbers(taken(box)) == [4, 5, 6, 7]


def test_a_producer_gives_way_for_a_short_time_only() -> None:
    box = at_work(give_way_s=0.001)
    box.put(draft(6))
    assert box.preparing
    box.put(draft(7))
    box.stored(taken(box))
    assert numbers(taken(box)) == [4, 5, 6, 7]


def test_a_producer_that_gives_way_hears_of_the_end() -> None:
    box = at_work()
    with ThreadPoolExecutor(1) as threads:
        waiting = blocked_put(box, threads, 6)
        box.close(LeaseLost("gone"))
        box.prepared()
        with pytest.raises(LeaseLost):
            waiting.result(PATIENCE_S)


@pytest.mark.parametrize("overflow", ["raise", "drop_oldest"])
def test_a_producer_that_never_blocks_does_not_give_way_either(overflow: str) -> None:
    box = at_work(overflow=overflow)
    assert not box.preparing
    box.put(draft(6))
    box.stored(taken(box))
    assert numbers(taken(box)) == [4, 5, 6]


# --- lingering -----------------------------------------------------------------------------------


def is_urgent(box: Outbox) -> bool:
    return box.urgent


def test_lingering_is_cut_short_by_priority_by_tickets_and_half_way_to_full() -> None:
    box = outbox(linger_s=60.0)
    box.put(draft(0))
    assert not is_urgent(box)
    box.put(draft(1), priority=True)
    assert is_urgent(box)
    box.stored(taken(box))
    assert not is_urgent(box)
    box.put(draft(2))
    box.ticket()
    assert is_urgent(box)
    box.stored(taken(box))
    kicks = Kicks()
    box.connect(kicks)
    for number in range(3):
        box.put(draft(number))
    assert is_urgent(box)
    assert kicks.count == 2  # one that lingers, one that does not


# --- waiting for room ----------------------------------------------------------------------------


async def test_waiting_for_room_ends_when_there_is_some() -> None:
    box = filled()
    waiting = asyncio.ensure_future(box.wait_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await asyncio.to_thread(lambda: box.stored(taken(box)))
    await asyncio.wait_for(waiting, PATIENCE_S)


@pytest.mark.parametrize("event", ["close", "fail"])
async def test_waiting_for_room_ends_when_none_will_come(event: str) -> None:
    box = filled()
    waiting = asyncio.ensure_future(box.wait_room())
    await asyncio.sleep(0)
    if event == "close":
        box.close(LeaseLost("gone"))
    else:
        box.failed(DOWN)
    await asyncio.wait_for(waiting, PATIENCE_S)
    await asyncio.wait_for(box.wait_room(), PATIENCE_S)


async def test_a_cancelled_waiter_is_forgotten() -> None:
    box = filled()
    for _ in range(100):
        waiting = asyncio.ensure_future(box.wait_room())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert not box._room.tasks  # pyright: ignore[reportPrivateUsage] # a leak shows nowhere else


def test_a_waiter_whose_loop_is_gone_stops_nobody() -> None:
    box = filled()

    loop = asyncio.new_event_loop()
    waiting = loop.create_task(box.wait_room())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    box.stored(taken(box))
    box.put(draft(9))
    assert numbers(taken(box)) == [9]
    waiting._log_destroy_pending = False  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue] # meant here
    del waiting
    gc.collect()


def test_a_record_that_comes_at_the_moment_of_the_muting_is_dropped_as_the_next_ones_are() -> None:
    def kick(_: Outbox) -> None:
        box.mute(DOWN)

    # (A full queue calls the sender before it looks for room.)
    box = outbox(overflow="drop_oldest", linger_s=1.0)
    for number in range(2):
        box.put(draft(number))
    box.connect(kick)
    box.put(draft(2))
    box.put(draft(3))
    assert (box.waiting, box.counts.dropped) == (0, 4)
