"""Every log keeps every promise; and the suite notices a log that does not."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from runstream.conformance import CHECKS, log_factory, run_check, run_checks
from runstream.conformance.check import (
    MANY_RUNS,
    MANY_RUNS_REMOTE,
    REMOTE_CHECK_S_MAX,
    Check,
    NotApplicable,
    OpenLog,
)
from runstream.errors import ProducerFenced
from runstream.log import Appended, Lease, Log, Page, Producer, RunInfo, Status
from runstream.logs.memory import MemoryLog
from runstream.record import Cursor, Draft

LOGS = ("memory", "sqlite", "sqlite-process")


@pytest.fixture(params=LOGS)
def open_log(request: pytest.FixtureRequest, tmp_path: Path) -> OpenLog:
    urls = {
        "memory": "memory:",
        "sqlite": f"sqlite:{tmp_path}/events.db",
        "sqlite-process": f"sqlite:{tmp_path}/events.db?durability=process",
    }
    return log_factory(urls[request.param])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.area}-{check.name}")
async def test_a_log_keeps_the_promise(check: Check, open_log: OpenLog) -> None:
    # Only a log that lives as long as its process may say that a promise does not apply to it.
    excused = () if open_log.reopens else (NotApplicable,)
    with contextlib.suppress(*excused):
        async with asyncio.timeout(REMOTE_CHECK_S_MAX):
            await check.run(open_log)


@pytest.mark.soak
@pytest.mark.allow_blocking
@pytest.mark.parametrize("store", ["redis_url", "postgres_url", "nats_url", "shared_server"])
async def test_a_log_beyond_this_process_lists_ten_thousand_runs_too(
    store: str, request: pytest.FixtureRequest
) -> None:
    fixture = request.getfixturevalue(store)
    url: str = fixture if isinstance(fixture, str) else fixture.url
    (check,) = [check for check in CHECKS if check.name == "many_runs_are_all_listed"]
    async with asyncio.timeout(REMOTE_CHECK_S_MAX):
        await check.run(log_factory(url, many_runs=MANY_RUNS))


def test_every_check_states_its_promise_in_one_sentence() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names) >= 40
    for check in CHECKS:
        assert check.promise.endswith("."), check.name
        assert 20 < len(check.promise) < 120, check.name


async def test_what_does_not_apply_to_a_log_is_told_with_the_reason() -> None:
    outcomes = [
        outcome async for outcome in run_checks(log_factory("memory:"), only=["durability"])
    ]
    told = {outcome.name: outcome.status for outcome in outcomes}
    assert told.pop("an_append_is_visible_when_it_returns") == "kept"
    assert set(told.values()) == {"not_applicable"}
    assert {o.why for o in outcomes} == {"", "this log lives as long as the process"}


@pytest.mark.allow_blocking  # all checks in one loop: each of them is watched above
async def test_the_suite_leaves_no_run_of_its_own_running_and_none_of_others_touched(
    sqlite_url: str,
) -> None:
    # (How many runs there can be is looked at above.)
    open_log = log_factory(f"{sqlite_url}?durability=process", many_runs=MANY_RUNS_REMOTE)
    async with open_log() as log:
        await log.open("mine", producer=None, workflow="nightly")
        before = await log.info("mine")
        checked = run_checks(open_log, seconds_max=REMOTE_CHECK_S_MAX)
        outcomes = [outcome async for outcome in checked]
        assert [(o.name, o.why) for o in outcomes if o.status != "kept"] == []
        assert len(outcomes) == len(CHECKS)
        assert list(await log.list(status="running")) == [before]
        for status in ("waiting", "stalled"):
            assert not await log.list(status=status)
        theirs = {info.workflow for info in await log.list(limit=1000)} - {"nightly"}
        assert theirs
        assert all(name == "conformance" or name.startswith("check-") for name in theirs)


async def test_a_broken_log_is_told_what_it_breaks_and_the_other_checks_go_on() -> None:
    class Failing(MemoryLog):
        async def trim(self, run_id: str, *, through: int) -> None:
            raise OSError(f"no disk for {run_id} through {through}")

    only = ["numbers_start_at_one", "trimming_keeps_the_numbers", "a_limit_is_respected"]
    outcomes = [outcome async for outcome in run_checks(Store(Failing()), only=only)]
    assert [outcome.status for outcome in outcomes] == ["kept", "kept", "broken"]
    assert outcomes[2].name == "trimming_keeps_the_numbers"
    assert "unexpected OSError: no disk for check-" in outcomes[2].why


# --- faults that a log may have, and the check that notices each ---------------------------------


class Store:
    """A store in memory that outlives its handles."""

    reopens = True
    many_runs = MANY_RUNS

    def __init__(self, log: MemoryLog) -> None:
        self._log = log
        self._open = 0

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[Log]:
        if self._open == 0 and isinstance(self._log, LosesTheLastAppend):
            await self._log.reopen()
        self._open += 1
        try:
            yield self._log
        finally:
            self._open -= 1


class DoublesARecord(MemoryLog):
    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        drafts = [*drafts[:1], *drafts] if len(drafts) > 2 else drafts
        return await super().append(run_id, drafts, producer=producer, final=final)


class IgnoresProducers(MemoryLog):
    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        return await super().append(run_id, drafts, final=final)


class IgnoresFencing(MemoryLog):
    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        for epoch in range(10):
            try:
                sent = producer and replace(producer, epoch=epoch)
                return await super().append(run_id, drafts, producer=sent, final=final)
            except ProducerFenced:
                continue
        raise AssertionError


class LosesTheLastAppend(MemoryLog):
    def __init__(self) -> None:
        super().__init__()
        self._last: tuple[str, int] | None = None

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        appended = await super().append(run_id, drafts, producer=producer, final=final)
        self._last = (run_id, len(drafts))
        return appended

    async def reopen(self) -> None:
        if self._last is not None:
            run_id, count = self._last
            _, stream = self._find(run_id)
            del stream.drafts[-count:]


class ReusesNumbersAfterTrim(MemoryLog):
    async def trim(self, run_id: str, *, through: int) -> None:
        await super().trim(run_id, through=through)
        _, stream = self._find(run_id)
        if not stream.drafts:
            stream.first_seq = 1


class ReadingLog(MemoryLog):
    """Pages go through `change` on their way out."""

    def change(self, drafts: list[Draft]) -> list[Draft]:
        raise NotImplementedError

    async def read(self, run_id: str, *, after: Cursor, limit: int = 1024) -> Page:
        page = await super().read(run_id, after=after, limit=limit)
        return replace(page, drafts=self.change(list(page.drafts)))


class SkipsARecord(ReadingLog):
    def change(self, drafts: list[Draft]) -> list[Draft]:
        return [*drafts[:2], *drafts[3:]] if len(drafts) > 3 else drafts


class SwapsRecords(ReadingLog):
    def change(self, drafts: list[Draft]) -> list[Draft]:
        return [*drafts[1::-1], *drafts[2:]]


class EncodesAgain(ReadingLog):
    def change(self, drafts: list[Draft]) -> list[Draft]:
        return [
            replace(draft, data=msgspec.Raw(json.dumps(json.loads(bytes(draft.data))).encode()))
            for draft in drafts
        ]


class HidesWhatWasTrimmed(MemoryLog):
    async def read(self, run_id: str, *, after: Cursor, limit: int = 1024) -> Page:
        first = (await self.info(run_id)).first_seq
        after = replace(after, seq=max(after.seq, first - 1))
        return await super().read(run_id, after=after, limit=limit)


class IgnoresGenerations(MemoryLog):
    async def read(self, run_id: str, *, after: Cursor, limit: int = 1024) -> Page:
        return await super().read(run_id, after=replace(after, generation=None), limit=limit)


class MissesWakeUps(MemoryLog):
    async def wait(self, run_id: str, *, after: int, timeout: float) -> None:
        await asyncio.sleep(timeout)


class StoresAfterItAnswers(MemoryLog):
    def __init__(self) -> None:
        super().__init__()
        self._later: list[asyncio.Future[Appended]] = []

    async def append(
        self,
        run_id: str,
        drafts: Sequence[Draft],
        *,
        producer: Producer | None = None,
        final: bool = False,
    ) -> Appended:
        last = (await self.info(run_id)).last_seq
        append = super().append(run_id, drafts, producer=producer, final=final)
        self._later.append(asyncio.ensure_future(append))
        return Appended(last + 1, last + len(drafts))


class ExpiresWhatWasRenewed(MemoryLog):
    async def expire(self, run_id: str, *, lease: Lease) -> RunInfo:
        now = (await self.info(run_id)).lease
        return await super().expire(run_id, lease=now or lease)


class LetsAnyoneRenew(MemoryLog):
    async def renew(self, run_id: str, *, owner: str, epoch: int) -> None:
        lease = (await self.info(run_id)).lease
        if lease is not None:
            await super().renew(run_id, owner=lease.owner, epoch=lease.epoch)


class ListsOldestFirst(MemoryLog):
    async def list(
        self,
        *,
        workflow: str | None = None,
        status: Status | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[RunInfo]:
        runs = await super().list(workflow=workflow, status=status, before=before, limit=limit)
        return runs[::-1]


FAULTS: dict[type[MemoryLog], str] = {
    DoublesARecord: "a_batch_is_contiguous",
    IgnoresProducers: "the_same_batch_twice_is_stored_once",
    IgnoresFencing: "a_stale_epoch_is_fenced",
    LosesTheLastAppend: "records_survive_reopening",
    ReusesNumbersAfterTrim: "numbers_survive_reopening_and_trimming",
    SkipsARecord: "history_to_live_has_no_hole",
    SwapsRecords: "a_batch_is_contiguous",
    EncodesAgain: "data_comes_back_byte_for_byte",
    HidesWhatWasTrimmed: "trimmed_records_are_told_as_a_gap",
    IgnoresGenerations: "another_generation_is_told_as_a_gap",
    MissesWakeUps: "wait_wakes_on_append",
    StoresAfterItAnswers: "an_append_is_visible_when_it_returns",
    ExpiresWhatWasRenewed: "expiring_an_outdated_lease_does_nothing",
    LetsAnyoneRenew: "a_vanished_owner_is_fenced",
    ListsOldestFirst: "runs_are_listed_newest_first",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_fault_is_noticed_by_its_check(fault: type[MemoryLog]) -> None:
    check = next(check for check in CHECKS if check.name == FAULTS[fault])
    sound = await run_check(check, Store(MemoryLog()), seconds_max=REMOTE_CHECK_S_MAX)
    assert (sound.status, sound.why) == ("kept", "")
    # What hangs without end is told after a moment; every other check is done long before.
    faulty = await run_check(check, Store(fault()), seconds_max=1.0)
    assert faulty.status == "broken"
    assert faulty.why
