"""The record queue: order, and an exact mark wherever records had to be dropped."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runstream.record import DROPPED, Draft
from runstream.record_queue import LatestSlot, RecordQueue

ROOM = 5
RUNS = ("root", "child")


def draft(number: int, kind: str = "token", run_id: str = "root") -> Draft:
    return Draft(0, run_id, kind, msgspec.Raw(b"%d" % number))


def number_of(one: Draft) -> int:
    return int(bytes(one.data))


@dataclass
class Put:
    """What the test remembers of an entry that it put."""

    number: int
    run_id: str
    is_users: bool
    dropped: bool = False


@dataclass
class Model:
    """The plainest queue: everything that was put, some of it crossed out."""

    waiting: list[Put] = field(default_factory=list[Put])

    def drop_oldest(self) -> None:
        next(one for one in self.waiting if one.is_users and not one.dropped).dropped = True

    def expected(self) -> list[int | dict[str, int]]:
        """Numbers in order; each row of dropped ones as its counts by run."""
        shown: list[int | dict[str, int]] = []
        for one in self.waiting:
            if not one.dropped:
                shown.append(one.number)
                continue
            if not shown or isinstance(shown[-1], int):
                shown.append({})
            counts = shown[-1]
            assert isinstance(counts, dict)
            counts[one.run_id] = counts.get(one.run_id, 0) + 1
        return shown


def shown(drafts: list[Draft]) -> list[int | dict[str, int]]:
    result: list[int | dict[str, int]] = []
    for one in drafts:
        if one.kind != DROPPED:
            result.append(number_of(one))
            continue
        data = msgspec.json.decode(one.data)
        assert data["reason"] == "queue_full"
        if not result or isinstance(result[-1], int) or one.run_id in result[-1]:
            result.append({})
        counts = result[-1]
        assert isinstance(counts, dict)
        counts[one.run_id] = data["count"]
    return result


class DroppingQueue(RuleBasedStateMachine):
    """Random puts and takes: what is taken is what was put, minus rows that a mark accounts for."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = RecordQueue()
        self.model = Model()
        self.next = 0
        self.lifecycle = 0

    @rule(run_id=st.sampled_from(RUNS))
    def put_of_a_user(self, run_id: str) -> None:
        self.next += 1
        new = draft(self.next, run_id=run_id)
        self.model.waiting.append(Put(self.next, run_id, is_users=True))
        if len(self.queue.entries) >= ROOM:
            self.model.drop_oldest()
            if not self.queue.drop_oldest(new):
                assert self.model.waiting[-1].dropped
                return
        self.queue.entries.append(new)

    @rule(kind=st.sampled_from(["run.started", "task.completed", "step.failed"]))
    def put_of_ours(self, kind: str) -> None:
        self.next += 1
        self.lifecycle += 1
        self.model.waiting.append(Put(self.next, "root", is_users=False))
        self.queue.entries.append(draft(self.next, kind))

    @rule()
    def put_a_slot(self) -> None:
        self.next += 1
        self.lifecycle += 1
        self.model.waiting.append(Put(self.next, "root", is_users=False))
        self.queue.enter(LatestSlot(draft(self.next, "task.snapshot"), threading.Lock()))

    @precondition(lambda self: self.model.waiting)
    @rule()
    def take_all(self) -> None:
        drafts, tickets = self.queue.pop(None)
        assert shown(drafts) == self.model.expected()
        assert not tickets
        assert not self.queue.entries
        self.model.waiting.clear()
        self.lifecycle = 0

    @invariant()
    def it_is_bounded_by_its_room_and_what_may_not_be_dropped(self) -> None:
        # A mark stands between two others at most.
        assert len(self.queue.entries) <= ROOM + 2 * self.lifecycle + 1


TestDroppingQueue = DroppingQueue.TestCase


def test_a_limit_leaves_the_rest_in_order() -> None:
    queue = RecordQueue()
    queue.entries.extend(draft(number) for number in range(5))
    assert [number_of(one) for one in queue.pop(2)[0]] == [0, 1]
    assert [number_of(one) for one in queue.pop(2)[0]] == [2, 3]
    assert [number_of(one) for one in queue.pop(2)[0]] == [4]
    assert queue.pop(2) == ([], [])


def test_a_limit_holds_between_tickets_too() -> None:
    queue, first, second = RecordQueue(), Future[bool](), Future[bool]()
    queue.entries.append(draft(0))
    queue.enter(first)
    queue.entries.append(draft(1))
    queue.entries.append(draft(2))
    queue.enter(second)
    drafts, tickets = queue.pop(2)
    assert ([number_of(one) for one in drafts], tickets) == ([0, 1], [first])
    drafts, tickets = queue.pop(2)
    assert ([number_of(one) for one in drafts], tickets) == ([2], [second])


def test_a_slot_shows_the_newest_draft_until_it_is_taken() -> None:
    queue, lock = RecordQueue(), threading.Lock()
    slot = LatestSlot(draft(1), lock)
    queue.enter(slot)
    assert slot.replace(draft(2))
    assert [number_of(one) for one in queue.pop(None)[0]] == [2]
    assert not slot.replace(draft(3))


def test_a_settled_slot_stays_as_it_is() -> None:
    queue = RecordQueue()
    slot = LatestSlot(draft(1), threading.Lock())
    queue.enter(slot)
    slot.settle()
    assert not slot.replace(draft(2))
    assert [number_of(one) for one in queue.pop(None)[0]] == [1]


def test_a_slot_whose_queue_nobody_sends_refuses_without_its_lock() -> None:
    queue, lock = RecordQueue(), threading.Lock()
    slot = LatestSlot(draft(1), lock)
    queue.enter(slot)
    with lock:  # as a thread held it that does not exist in a forked child
        queue.settle_slots()
        assert not slot.replace(draft(2))
