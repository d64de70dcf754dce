"""Where a reader begins that wants the last records which pass its filter, and what finding that costs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream import position
from runstream.filter import Filter, make_filter
from runstream.handler import Handler
from runstream.log import READ_LIMIT_DEFAULT, Page
from runstream.logs.memory import MemoryLog
from runstream.position import first_position
from runstream.record import Cursor, Draft, make_draft
from runstream.start import make_start

LOTS = 4 * READ_LIMIT_DEFAULT
COMMON = make_draft("r", "token", {})
RARE = make_draft("r", "rare", {})
END = make_draft("r", "run.completed", {"result": 7})


class CountingLog(MemoryLog):
    """A memory log that counts the records which were read from it."""

    def __init__(self) -> None:
        super().__init__()
        self.records_read = 0

    async def read(self, run_id: str, *, after: Cursor, limit: int = READ_LIMIT_DEFAULT) -> Page:
        page = await super().read(run_id, after=after, limit=limit)
        self.records_read += len(page.drafts)
        return page


@pytest.fixture
async def log() -> AsyncIterator[CountingLog]:
    log = CountingLog()
    await log.open("r", producer=None, workflow="w")
    yield log
    await log.aclose()


async def begins_behind(log: MemoryLog, last: int, wanted: Filter, run_id: str = "r") -> int:
    info = await log.info(run_id)
    return (await first_position(log, info, make_start(None, None, last), wanted)).seq


async def test_without_a_filter_the_last_records_are_counted_and_none_is_read(
    log: CountingLog,
) -> None:
    await log.append("r", [COMMON] * LOTS)
    await log.trim("r", through=10)
    everything = make_filter()
    assert await begins_behind(log, 0, everything) == LOTS
    assert await begins_behind(log, 3, everything) == LOTS - 3
    assert await begins_behind(log, LOTS, everything) == 10
    assert log.records_read == 0


async def test_the_search_ends_where_enough_records_match(log: CountingLog) -> None:
    await log.append("r", [COMMON] * LOTS + [RARE] * 2 + [COMMON] * 50)
    assert await begins_behind(log, 2, make_filter(kinds="rare")) == LOTS
    assert log.records_read <= 200


async def test_the_search_for_what_does_not_match_is_bounded(
    log: CountingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(position, "LAST_LOOKED_AT_MAX", LOTS)
    await log.append("r", [COMMON] * LOTS + [RARE] + [COMMON] * (LOTS - 1))
    rare = make_filter(kinds="rare")
    assert await begins_behind(log, 2, rare) == LOTS
    assert log.records_read == LOTS
    # The record at the bound is still looked at; one behind it is not.
    assert await begins_behind(log, 1, rare) == LOTS
    await log.append("r", [COMMON])
    assert await begins_behind(log, 1, rare) == LOTS + 1


async def test_others_have_their_turn_while_somebody_searches(log: CountingLog) -> None:
    await log.append("r", [COMMON] * LOTS)
    searching = asyncio.create_task(begins_behind(log, 1, make_filter(kinds="rare")))
    turns = 0
    while not searching.done():
        await asyncio.sleep(0)
        turns += 1
    assert turns >= LOTS // READ_LIMIT_DEFAULT
    assert await searching == 0


@given(
    kinds=st.lists(st.sampled_from([COMMON, RARE]), max_size=60),
    last=st.integers(0, 70),
    trimmed=st.integers(0, 60),
)
def test_the_search_finds_what_counting_would(kinds: list[Draft], last: int, trimmed: int) -> None:
    async def found() -> int:
        log = MemoryLog()
        await log.open("r", producer=None, workflow="w")
        await log.append("r", [COMMON, *kinds])
        await log.trim("r", through=trimmed)
        return await begins_behind(log, last, make_filter(kinds="rare"))

    gone = min(trimmed, len(kinds) + 1)
    rare = [seq for seq, one in enumerate([COMMON, *kinds], 1) if one is RARE and seq > gone]
    expected = len(kinds) + 1 if last == 0 else gone if len(rare) < last else rare[-last] - 1
    assert asyncio.run(found()) == expected


async def test_who_awaits_a_run_that_goes_on_reads_only_what_comes(log: CountingLog) -> None:
    await log.append("r", [COMMON] * LOTS)
    awaiting = asyncio.create_task(Handler(log, "r").result())
    await asyncio.sleep(0)
    await log.append("r", [COMMON] * 10 + [END], final=True)
    assert await awaiting == 7
    assert log.records_read <= 11
    # Afterwards its end is where the search begins.
    assert await Handler(log, "r").result() == 7
    assert log.records_read <= 20


async def test_the_end_of_a_child_is_found_however_much_its_root_has_written_since(
    log: CountingLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(position, "LAST_LOOKED_AT_MAX", LOTS)
    await log.open("c", producer=None, workflow="w", parent_run_id="r")
    await log.append("r", [make_draft("c", "run.completed", {"result": "early"})])
    await log.append("r", [COMMON] * LOTS)
    assert await Handler(log, "c").result() == "early"
