"""Pages of thousands of records: built in slices, so that those who ask for them hold nobody else up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi_call import call
from runstream.logs.memory import MemoryLog
from runstream.record import Draft, make_draft
from runstream.server.app import App, create_app
from runstream.server.events_page import SLICE_RECORDS

RECORDS = 16 * SLICE_RECORDS
PAGE = {"accept": "application/json"}
KINDS = ("a", "b", "c")


async def app_with(drafts: Sequence[Draft]) -> App:
    log = MemoryLog()
    await log.open("r", producer=None, workflow="w")
    await log.append("r", drafts, final=drafts[-1].is_terminal)
    return create_app(log)


@pytest.fixture
async def app() -> AsyncGenerator[App]:
    made = await app_with([make_draft("r", "token", {"text": "x" * 100})] * RECORDS)
    async with made.lifespan():
        yield made


@pytest.mark.parametrize("query", ["", "kinds=token"])
async def test_while_a_hundred_large_pages_are_asked_for_others_are_answered(
    app: App, query: str
) -> None:
    pages_done = 0

    async def ask_for_page() -> None:
        nonlocal pages_done
        answer = await call(app, "GET", "/v1/runs/r/events", PAGE, query=query)
        assert answer.body.count(b'"seq":') == RECORDS
        pages_done += 1

    asking = [asyncio.create_task(ask_for_page()) for _ in range(100)]
    await asyncio.sleep(0)
    # Each asks when the one before has its answer, and small pages wait for no large one.
    for _ in range(10):
        assert (await call(app, "GET", "/healthz")).status == 200
        small = await call(app, "GET", "/v1/runs/r/events", PAGE, query="limit=3")
        assert len(small.json["records"]) == 3
    assert pages_done <= 10
    await asyncio.gather(*asking)


async def test_who_leaves_while_its_page_is_built_makes_room_for_the_next(app: App) -> None:
    leaving = asyncio.create_task(call(app, "GET", "/v1/runs/r/events", PAGE))
    waiting = asyncio.create_task(call(app, "GET", "/v1/runs/r/events", PAGE))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not leaving.done()
    leaving.cancel()
    assert (await waiting).status == 200


@settings(max_examples=30, deadline=None)
@given(
    runs=st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(1, SLICE_RECORDS + 50)), max_size=5
    ),
    wanted=st.sets(st.sampled_from(KINDS)),
    limit=st.integers(10, 3 * SLICE_RECORDS),
    ends=st.booleans(),
)
def test_pages_one_after_the_other_hold_each_record_once_wherever_their_slices_end(
    runs: list[tuple[str, int]], wanted: set[str], limit: int, ends: bool
) -> None:
    drafts = [make_draft("r", kind, {}) for kind, count in runs for _ in range(count)]
    drafts.append(make_draft("r", "run.completed" if ends else "a", {}))
    expected = [
        (seq, draft.kind)
        for seq, draft in enumerate(drafts, 1)
        if not wanted or draft.kind in wanted or draft.is_terminal
    ]
    found, last = asyncio.run(all_pages(drafts, sorted(wanted), limit, len(expected)))
    assert found == expected
    assert last["ended"] == ends
    assert last["cursor"].endswith(f".{len(drafts)}")


async def all_pages(
    drafts: list[Draft], kinds: list[str], limit: int, enough: int
) -> tuple[list[tuple[int, str]], Any]:
    """What the pages hold, and the last of them: the one that ends, or is not full."""
    app = await app_with(drafts)
    found: list[tuple[int, str]] = []
    query = f"limit={limit}" + (f"&kinds={','.join(kinds)}" if kinds else "")
    after = ""
    async with app.lifespan():
        while True:
            page = (await call(app, "GET", "/v1/runs/r/events", PAGE, query=query + after)).json
            records = page["records"]
            assert len(records) <= limit
            await asyncio.sleep(0)  # (reading them is not the app's work)
            assert page["first_seq"] == (records[0]["seq"] if records else page["first_seq"])
            found += [(record["seq"], record["kind"]) for record in records]
            if page["ended"] or not records:
                assert len(found) <= enough
                return found, page
            after = f"&after={page['cursor']}"
