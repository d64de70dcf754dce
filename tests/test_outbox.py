"""The outbox: numbers, batches, tickets, and what a full, failing or closed queue does."""

from __future__ import annotations

import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from runstream.errors import (
    LeaseLost,
    LogClosed,
    ProducerFenced,
    RunEnded,
)
from runstream.outbox import Outbox
from small_outbox import DOWN, PATIENCE_S, Kicks, answer, draft, end, filled, numbers, outbox, taken

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
    box._entries.append(draft(1))  # pyright: ignore[reportPrivateUsage] - no call tells
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


def test_who_waits_behind_a_whole_batch_that_came_too_late_is_answered() -> None:
    box = outbox(records_max=10)
    box.put_always(draft(1, "run.completed", run_id="child"))
    for number in range(2, 6):
        box.put(draft(number, run_id="child"))
    ticket = box.ticket()
    box.stored(taken(box, limit=1))
    assert box.take(limit=2) is None
    assert answer(ticket)
    assert box.counts.dropped == 4


def test_what_others_queue_behind_the_end_of_the_root_is_cut_off() -> None:
    box = outbox(records_max=10)
    box.put_always(draft(1, "run.completed", run_id="root"))
    # Two threads that had looked whether the run goes on before it ended.
    box._entries.extend([draft(2, run_id="child"), draft(3)])  # pyright: ignore[reportPrivateUsage] - no call tells
    batch = taken(box)
    assert [one.kind for one in batch.drafts] == ["run.completed"]
    assert batch.final
    assert box.counts.dropped == 2


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


# --- threads -------------------------------------------------------------------------------------


def test_eight_threads_lose_and_double_nothing() -> None:
    kicked = threading.Event()

    def kick(_: Outbox) -> None:
        kicked.set()

    box = outbox(records_max=64, overflow="block", block_s=PATIENCE_S, kick=kick)
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
