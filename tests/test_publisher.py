"""The publisher: everything queued is stored once and in order, whatever the log does meanwhile.

The logs here are the memory log, refusing or failing for a while as a log in trouble does.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

import msgspec
import pytest

from runstream.errors import (
    LeaseLost,
    LogClosed,
    LogUnavailable,
    ProducerFenced,
    RunstreamError,
)
from runstream.log import Appended, LeaseClaim, Opened, PendingAppend, Producer
from runstream.logs.memory import MemoryLog
from runstream.outbox import Outbox
from runstream.publisher import Publisher
from runstream.record import Cursor, Draft
from runstream.settings import Settings

PATIENCE_S = 20.0


class TroubledLog(MemoryLog):
    """A memory log that raises what it is told to before it takes anything, and remembers its batches."""

    def __init__(self, *troubles: Exception) -> None:
        super().__init__()
        self.troubles: list[Exception] = list(troubles)
        # Those whose records it does not take for now.
        self.locked_runs: set[str] = set()
        self.batches: list[list[int]] = []
        self.attempts: list[bytes] = []
        # Cleared, every append waits.
        self.open_for_appends = threading.Event()
        self.open_for_appends.set()

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        await asyncio.to_thread(self.open_for_appends.wait, PATIENCE_S)
        self.attempts.append(msgspec.json.encode((producer, list(drafts))))
        if self.troubles:
            raise self.troubles.pop(0)
        if run_id in self.locked_runs:
            raise LogUnavailable("locked")
        appended = await super().append(run_id, drafts, producer=producer, final=final)
        self.batches.append([int(bytes(draft.data)) for draft in drafts])
        return appended


class FetchingLog(TroubledLog):
    """The same with a writing thread of its own, as the SQLite log has."""

    def __init__(self, *troubles: Exception) -> None:
        super().__init__(*troubles)
        self._kicks: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._take: Callable[[], Sequence[PendingAppend]] = list
        self._writer = threading.Thread(target=self._write, name="test-writer")
        self._writer.start()

    def fetch_from(self, take: Callable[[], Sequence[PendingAppend]]) -> Callable[[], None]:
        self._take = take
        return lambda: self._kicks.put(True)

    def _write(self) -> None:
        while self._kicks.get():
            for one in self._take():
                work = self.append(one.run_id, one.drafts, producer=one.producer, final=one.final)
                try:
                    outcome: Appended | Exception = asyncio.run(work)
                except Exception as error:  # noqa: BLE001 - it is the answer
                    outcome = error
                one.done(outcome)

    def close(self) -> None:
        self._kicks.put(False)
        self._writer.join()
        super().close()


@contextmanager
def publishing_to(log: MemoryLog, *, url: str = "memory:", batch: int = 64) -> Generator[Publisher]:
    publisher = Publisher(url, log, Settings(url=url, publish_batch_size=batch))
    try:
        yield publisher
    finally:
        log.close()
        publisher.close()


def opened(publisher: Publisher, run_id: str = "run-1", producer: str = "p1") -> Opened:
    claim = LeaseClaim(lease_s=30.0)
    return publisher.portal.call(
        publisher.log.open(run_id, producer=producer, workflow="w", claim=claim)
    )


def outbox_in(publisher: Publisher, run_id: str = "run-1", linger_s: float = 0.0) -> Outbox:
    first = opened(publisher, run_id)
    return publisher.add_outbox(run_id, run_id, producer_id="p1", opened=first, linger_s=linger_s)


def draft(number: int, run_id: str = "run-1") -> Draft:
    return Draft(0, run_id, "token", msgspec.Raw(b"%d" % number))


def stored(publisher: Publisher, run_id: str = "run-1") -> list[int]:
    page = publisher.portal.call(publisher.log.read(run_id, after=Cursor(None, 0), limit=10_000))
    return [int(bytes(one.data)) for one in page.drafts]


def is_stored(outbox: Outbox) -> bool:
    return outbox.ticket().result(PATIENCE_S)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.002)


@pytest.fixture(params=[TroubledLog, FetchingLog], ids=["sent to", "fetching"])
def make_log(request: pytest.FixtureRequest) -> Callable[..., TroubledLog]:
    """Both ways in which records reach a log."""
    made: Callable[..., TroubledLog] = request.param
    return made


# --- the common case -----------------------------------------------------------------------------


def test_everything_is_stored_in_order(make_log: Callable[..., TroubledLog]) -> None:
    with publishing_to(make_log()) as publisher:
        outbox = outbox_in(publisher)
        for number in range(3000):
            outbox.put(draft(number))
        assert is_stored(outbox)
        assert stored(publisher) == list(range(3000))
        assert outbox.counts.stored == 3000


def test_what_is_queued_while_a_batch_is_on_its_way_goes_in_the_next_one(
    make_log: Callable[..., TroubledLog],
) -> None:
    log = make_log()
    with publishing_to(log) as publisher:
        outbox = outbox_in(publisher)
        log.open_for_appends.clear()
        outbox.put(draft(0))
        wait_until(lambda: outbox.take() is not None)
        for number in range(1, 50):
            outbox.put(draft(number))
        log.open_for_appends.set()
        assert is_stored(outbox)
        assert log.batches == [[0], list(range(1, 50))]


def test_many_runs_go_on_at_once(make_log: Callable[..., TroubledLog]) -> None:
    with publishing_to(make_log()) as publisher:
        runs = [f"run-{number}" for number in range(20)]
        outboxes = [outbox_in(publisher, run_id) for run_id in runs]
        for number in range(100):
            for run_id, outbox in zip(runs, outboxes, strict=True):
                outbox.put(draft(number, run_id))
        assert all(map(is_stored, outboxes))
        for run_id in runs:
            assert stored(publisher, run_id) == list(range(100))


# --- trouble -------------------------------------------------------------------------------------


def test_a_batch_is_sent_again_unchanged_until_the_log_answers(
    make_log: Callable[..., TroubledLog],
) -> None:
    log = make_log(*[LogUnavailable("the disk is full")] * 1000)
    with publishing_to(log) as publisher:
        outbox = outbox_in(publisher)
        outbox.put(draft(0))
        wait_until(lambda: len(log.attempts) >= 2)
        assert outbox.failing is not None
        outbox.put(draft(1))
        del log.troubles[1:]
        assert is_stored(outbox)
        assert len(set(log.attempts[:-1])) == 1
        assert stored(publisher) == [0, 1]
        assert outbox.failing is None


def test_what_came_while_the_log_failed_is_stored_without_another_push(
    make_log: Callable[..., TroubledLog],
) -> None:
    log = make_log()
    with publishing_to(log) as publisher:
        outbox = outbox_in(publisher)
        log.locked_runs.add("run-1")
        outbox.put(draft(0))
        wait_until(lambda: outbox.failing is not None)
        for number in range(1, 10):
            outbox.put(draft(number))
        log.locked_runs.clear()
        # No ticket here: it would push.
        wait_until(lambda: outbox.counts.stored == 10)
        assert stored(publisher) == list(range(10))


def test_one_run_in_trouble_does_not_hold_up_another(make_log: Callable[..., TroubledLog]) -> None:
    log = make_log()
    with publishing_to(log) as publisher:
        first, second = outbox_in(publisher, "run-1"), outbox_in(publisher, "run-2")
        log.locked_runs.add("run-1")
        first.put(draft(0))
        wait_until(lambda: first.failing is not None)
        second.put(draft(0, "run-2"))
        assert is_stored(second)
        assert first.failing is not None
        log.locked_runs.clear()
        assert is_stored(first)


def test_a_refusal_for_good_closes_the_outbox_and_is_counted(
    make_log: Callable[..., TroubledLog],
) -> None:
    with publishing_to(make_log()) as publisher:
        zombie = outbox_in(publisher)
        zombie.put(draft(0))
        assert is_stored(zombie)
        opened(publisher)  # the same producer, in another process: a newer epoch
        for number in range(1, 4):
            zombie.put(draft(number))
        assert not is_stored(zombie)
        with pytest.raises(ProducerFenced):
            zombie.put(draft(9))
        assert zombie.counts.failed + zombie.counts.dropped == 3
        assert stored(publisher) == [0]


def test_a_log_that_breaks_in_its_own_way_closes_the_outbox_too(
    make_log: Callable[..., TroubledLog],
) -> None:
    with publishing_to(make_log(KeyError("a bug"))) as publisher:
        outbox = outbox_in(publisher)
        outbox.put(draft(0))
        assert not is_stored(outbox)
        with pytest.raises(RunstreamError, match="a bug"):
            outbox.put(draft(1))


@pytest.mark.parametrize("trouble", [[], [LogUnavailable("the disk is full")]])
def test_nobody_gives_way_any_more_when_a_batch_is_settled(trouble: list[Exception]) -> None:
    with publishing_to(FetchingLog(*trouble)) as publisher:
        outbox = outbox_in(publisher)
        outbox.put(draft(0))
        assert is_stored(outbox)
        assert not outbox.preparing


# --- what a log is sent at once ------------------------------------------------------------------


def test_a_remote_log_gets_batches_of_a_limited_size_and_never_blocks_the_caller() -> None:
    log = TroubledLog()
    with publishing_to(log, url="remote:", batch=5) as publisher:
        outbox = outbox_in(publisher)
        assert outbox.overflow == "drop_oldest"
        for number in range(23):
            outbox.put(draft(number))
        assert is_stored(outbox)
        assert max(map(len, log.batches)) <= 5
        assert stored(publisher) == list(range(23))


def test_a_log_in_this_process_blocks_the_caller_when_full() -> None:
    with publishing_to(TroubledLog()) as publisher:
        assert outbox_in(publisher).overflow == "block"


def test_records_linger_for_company_until_one_is_urgent(
    make_log: Callable[..., TroubledLog],
) -> None:
    log = make_log()
    with publishing_to(log) as publisher:
        outbox = outbox_in(publisher, linger_s=60.0)
        for number in range(3):
            outbox.put(draft(number))
        outbox.put(draft(3), priority=True)
        wait_until(lambda: outbox.counts.stored == 4)
        assert log.batches == [[0, 1, 2, 3]]


def test_lingering_ends_by_itself(make_log: Callable[..., TroubledLog]) -> None:
    with publishing_to(make_log()) as publisher:
        outbox = outbox_in(publisher, linger_s=0.01)

        def put_and_wait(number: int) -> None:
            outbox.put(draft(number))
            wait_until(lambda: outbox.counts.stored == number + 1)

        for number in range(3):
            put_and_wait(number)


# --- leases --------------------------------------------------------------------------------------


def keep(publisher: Publisher, lease_s: float) -> tuple[Opened, Outbox]:
    async def begin() -> tuple[Opened, Outbox]:
        claim = LeaseClaim(lease_s)
        first = await publisher.log.open("run-1", producer="p1", workflow="w", claim=claim)
        outbox = publisher.add_outbox("run-1", "run-1", producer_id="p1", opened=first)
        publisher.keep_lease("run-1", first, outbox)
        return first, outbox

    return publisher.portal.call(begin())


def counter(publisher: Publisher) -> int:
    lease = publisher.portal.call(publisher.log.info("run-1")).lease
    assert lease is not None
    return lease.counter


def test_a_lease_is_renewed_until_it_is_dropped() -> None:
    with publishing_to(TroubledLog()) as publisher:
        first, _ = keep(publisher, 0.03)
        assert first.info.lease is not None
        before = first.info.lease.counter
        wait_until(lambda: counter(publisher) >= before + 3)

        async def drop() -> bool:
            assert publisher.holds_lease("run-1")
            publisher.drop_lease("run-1")
            return publisher.holds_lease("run-1")

        assert not publisher.portal.call(drop())


def test_a_lost_lease_closes_the_outbox() -> None:
    with publishing_to(TroubledLog()) as publisher:
        first, outbox = keep(publisher, 0.03)
        publisher.portal.call(
            publisher.log.release("run-1", owner="p1", epoch=first.epoch),
        )
        wait_until(lambda: outbox.closed_by is not None)
        with pytest.raises(LeaseLost):
            outbox.put(draft(0))


def test_a_log_that_is_away_for_a_renewal_is_renewed_when_it_is_back() -> None:
    class AwayLog(TroubledLog):
        away = True

        async def renew(self, run_id: str, *, owner: str, epoch: int) -> None:
            if self.away:
                raise LogUnavailable("locked")
            await super().renew(run_id, owner=owner, epoch=epoch)

    log = AwayLog()
    with publishing_to(log) as publisher:
        first, outbox = keep(publisher, 0.03)
        assert first.info.lease is not None
        before = first.info.lease.counter
        wait_until(lambda: outbox.failing is not None)
        assert counter(publisher) == before
        log.away = False
        wait_until(lambda: counter(publisher) > before)
        wait_until(lambda: outbox.failing is None)


# --- closing -------------------------------------------------------------------------------------


def test_closing_counts_what_was_not_sent_and_leaves_nobody_waiting(
    make_log: Callable[..., TroubledLog],
) -> None:
    log = make_log(*[LogUnavailable("down")] * 1000)
    with publishing_to(log) as publisher:
        outbox = outbox_in(publisher)
        for number in range(5):
            outbox.put(draft(number))
        ticket = outbox.ticket()
        wait_until(lambda: outbox.failing is not None)
    assert not ticket.result(PATIENCE_S)
    assert outbox.counts.failed + outbox.counts.dropped == 5
    with pytest.raises(LogClosed):
        outbox.put(draft(9))
