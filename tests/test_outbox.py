"""The outbox: numbers, batches, tickets, and what a full, failing or closed queue does."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from runstream.errors import (
    LeaseLost,
    LogClosed,
    LogUnavailable,
    ProducerFenced,
    QueueFull,
    RunEnded,
)
from runstream.outbox import Batch, Outbox
from runstream.record import DROPPED, Draft

PATIENCE_S = 10.0
DOWN = LogUnavailable("the disk is full")


def draft(number: int, kind: str = "token", run_id: str = "root") -> Draft:
    return Draft(0, run_id, kind, msgspec.Raw(b"%d" % number))


def end() -> Draft:
    return Draft(0, "root", "run.completed", msgspec.Raw(b"{}"))


class Kicks:
    """Counts how often the sender was called."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def outbox(**options: Any) -> Outbox:
    standard: dict[str, Any] = {
        "url": "memory:",
        "run_id": "root",
        "root_run_id": "root",
        "producer_id": "p1",
        "epoch": 3,
        "number": 10,
        "records_max": 4,
        "size_bytes_max": 1000,
        "overflow": "raise",
        "kick": Kicks(),
    }
    return Outbox(**(standard | options))


def filled(**options: Any) -> Outbox:
    box = outbox(**options)
    for number in range(4):
        box.put(draft(number))
    return box


def taken(box: Outbox, limit: int | None = None) -> Batch:
    batch = box.take(limit)
    assert batch is not None
    return batch


def numbers(batch: Batch) -> list[int]:
    return [int(bytes(one.data)) for one in batch.drafts]


def answer(ticket: Future[bool]) -> bool:
    return ticket.result(timeout=PATIENCE_S)


# --- batches -------------------------------------------------------------------------------------


def test_numbers_go_on_from_where_the_log_knows_the_producer() -> None:
    box = filled()
    first = taken(box, 3)
    assert (first.producer.id, first.producer.epoch, first.producer.number) == ("p1", 3, 11)
    box.stored(first)
    second = taken(box)
    assert (second.producer.number, numbers(second)) == (14, [3])
    box.stored(second)
    assert box.take() is None
    assert box.counts.stored == 4


def test_a_batch_that_was_not_settled_is_taken_again_as_it_was() -> None:
    box = filled()
    first = taken(box, 2)
    sent = msgspec.json.encode(first.drafts)
    box.failed(DOWN)
    again = taken(box)
    assert again is first
    assert msgspec.json.encode(again.drafts) == sent


def test_the_sender_is_called_once_for_what_it_has_not_looked_at() -> None:
    kicks = Kicks()
    box = filled(kick=kicks)
    assert kicks.count == 1
    box.stored(taken(box))
    box.put(draft(4))
    box.put(draft(5))
    assert kicks.count == 2


def test_a_slot_is_replaced_until_it_is_taken_and_then_is_part_of_the_batch() -> None:
    box = outbox()
    slot = box.put_latest(draft(1))
    assert slot.replace(draft(2))
    batch = taken(box)
    assert numbers(batch) == [2]
    assert not slot.replace(draft(3))
    assert numbers(taken(box)) == [2]


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
    while not box._blocked and not waiting.done():  # pyright: ignore[reportPrivateUsage] # nothing else tells
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


# --- tickets -------------------------------------------------------------------------------------


def test_a_ticket_is_true_when_everything_before_it_is_stored() -> None:
    box = filled()
    ticket = box.ticket()
    batch = taken(box)
    assert not ticket.done()
    box.stored(batch)
    assert answer(ticket)


def test_a_ticket_of_an_empty_outbox_is_answered_at_the_next_look() -> None:
    box = outbox()
    ticket = box.ticket()
    assert box.take() is None
    assert answer(ticket)


def test_a_ticket_behind_a_limit_waits_for_its_own_batch() -> None:
    box = filled()
    ticket = box.ticket()
    box.stored(taken(box, 2))
    assert not ticket.done()
    box.stored(taken(box, 2))
    box.take(2)
    assert answer(ticket)


def test_a_ticket_is_false_when_what_was_before_it_is_refused() -> None:
    box = filled()
    in_batch = box.ticket()
    batch = taken(box)
    box.put(draft(9))
    behind = box.ticket()
    box.refused(batch, ProducerFenced("a newer epoch"))
    assert (answer(in_batch), answer(behind), answer(box.ticket())) == (False, False, False)
    assert (box.counts.failed, box.counts.dropped) == (4, 1)


def test_a_cancelled_ticket_harms_nobody() -> None:
    box = filled()
    ticket, other = box.ticket(), box.ticket()
    ticket.cancel()
    box.stored(taken(box))
    assert answer(other)


# --- the end -------------------------------------------------------------------------------------


def test_nothing_follows_the_roots_terminal_record() -> None:
    box = outbox()
    box.put(draft(0))
    box.put_always(end())
    for put in (box.put, box.put_always, box.offer, box.put_latest):
        with pytest.raises(RunEnded):
            put(draft(1))
    ticket = box.ticket()
    batch = taken(box)
    assert batch.final
    assert len(batch.drafts) == 2
    box.stored(batch)
    assert answer(ticket)
    assert answer(box.ticket())
    assert box.counts.dropped == 0


def test_a_childs_terminal_record_ends_nothing() -> None:
    box = outbox()
    box.put_always(draft(0, "run.completed", run_id="child"))
    box.put(draft(1))
    assert not taken(box).final


def test_what_slips_behind_the_end_is_dropped_and_the_end_is_kept() -> None:
    box = outbox()
    box.put_always(end())
    # As a thread does that looked before the end and queues after it.
    box._entries.append(draft(1))  # pyright: ignore[reportPrivateUsage]
    batch = taken(box)
    assert batch.final
    assert len(batch.drafts) == 1
    assert box.counts.dropped == 1


def test_what_slips_behind_a_childs_end_is_dropped_and_the_root_goes_on() -> None:
    box = outbox()
    box.put_always(draft(0, "run.completed", run_id="child"))
    box.put(draft(1, run_id="child"))
    box.put(draft(2))
    batch = taken(box)
    assert len(batch.drafts) == 2
    box.stored(batch)
    box.put(draft(3, run_id="child"))
    box.put(draft(4))
    assert len(taken(box).drafts) == 1
    assert box.counts.dropped == 2


def test_closing_answers_everyone_and_counts_what_was_queued(
    caplog: pytest.LogCaptureFixture,
) -> None:
    box = filled()
    ticket = box.ticket()
    box.close(LeaseLost("gone"))
    assert not answer(ticket)
    assert not answer(box.ticket())
    assert box.counts.dropped == 4
    assert box.waiting == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(LeaseLost):
        box.put(draft(9))


def test_giving_up_answers_for_the_batch_on_its_way_and_ignores_its_late_outcome() -> None:
    box = filled()
    ticket = box.ticket()
    batch = taken(box)
    box.give_up(LogClosed("closing"))
    assert not answer(ticket)
    assert box.counts.failed == 4
    box.stored(batch)
    box.refused(batch, ProducerFenced("late"))
    assert (box.counts.stored, box.counts.failed) == (0, 4)
    assert isinstance(box.closed_by, LogClosed)


def test_records_that_came_too_late_for_the_run_are_dropped_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    box = filled()
    batch = taken(box, 2)
    box.refused(batch, RunEnded("over"))
    assert (box.counts.dropped, box.counts.failed) == (4, 0)
    assert len(caplog.records) == 1


def test_refusing_again_and_again_holds_on_to_no_traceback() -> None:
    box = outbox()
    box.close(RunEnded("over"))
    depths: set[int] = set()
    for _ in range(50):
        with pytest.raises(RunEnded) as refused:
            box.put(draft(1))
        depths.add(len(traceback.extract_tb(refused.value.__traceback__)))
    assert len(depths) == 1


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
    assert not box._room_waiters  # pyright: ignore[reportPrivateUsage] # a leak shows nowhere else


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


# --- threads -------------------------------------------------------------------------------------


def test_eight_threads_lose_and_double_nothing() -> None:
    kicked = threading.Event()
    box = outbox(records_max=64, overflow="block", block_s=PATIENCE_S, kick=kicked.set)
    per_thread, stored = 2000, list[int]()

    def put_all(thread: int) -> None:
        for number in range(per_thread):
            box.put(draft(thread * per_thread + number))

    def send() -> None:
        while len(stored) < 8 * per_thread and kicked.wait(PATIENCE_S):
            kicked.clear()
            while (batch := box.take(16)) is not None:
                assert batch.producer.number == 11 + len(stored)
                stored.extend(numbers(batch))
                box.stored(batch)

    with ThreadPoolExecutor(9) as threads:
        sender = threads.submit(send)
        for putting in [threads.submit(put_all, thread) for thread in range(8)]:
            putting.result()
        sender.result()
    assert sorted(stored) == list(range(8 * per_thread))
    for thread in range(8):
        mine = [number for number in stored if number // per_thread == thread]
        assert mine == sorted(mine)


def test_threads_that_publish_into_the_end_find_it_last() -> None:
    for _ in range(20):
        box = outbox(records_max=10_000)
        together = threading.Barrier(5)

        def put_until_the_end(box: Outbox = box, together: threading.Barrier = together) -> int:
            together.wait(PATIENCE_S)
            count = 0
            try:
                while True:
                    box.put(draft(count))
                    count += 1
            except RunEnded:
                return count

        with ThreadPoolExecutor(4) as threads:
            putting = [threads.submit(put_until_the_end) for _ in range(4)]
            together.wait(PATIENCE_S)
            box.put_always(end())
            put = sum(each.result(PATIENCE_S) for each in putting)
        stored = 0
        while (batch := box.take(64)) is not None:
            assert batch.final == (batch.drafts[-1].kind == "run.completed")
            stored += len(batch.drafts)
            box.stored(batch)
        assert stored + box.counts.dropped == put + 1


# --- a forked child ------------------------------------------------------------------------------


def test_a_forked_child_begins_anew() -> None:
    box = filled()
    slot = box.put_latest(draft(9))
    box.failed(DOWN)
    taken(box, 1)
    box.start_over("p2", kick=Kicks())
    assert box.waiting == 0
    assert not slot.replace(draft(10))
    box.put(draft(5))
    batch = taken(box)
    assert (batch.producer.id, batch.producer.epoch, batch.producer.number) == ("p2", 0, 1)
    assert numbers(batch) == [5]
