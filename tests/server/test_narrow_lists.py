"""Lists for tokens that may see a few runs of many: each page is a bounded look, and names no other run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest

from asgi_call import Answer, call
from runstream.log import RunInfo, Status
from runstream.logs.http import HttpLog
from runstream.logs.memory import MemoryLog
from runstream.record import make_draft
from runstream.server import runs
from runstream.server.app import App, create_app
from runstream.server.credentials import Credentials, choose_access
from runstream.server.keys import create_key
from scripted_server import Line, Request, answer, run_answer, scripted_server

THEIRS = 200
LOOKED_AT_MAX = 40


class CountingLog(MemoryLog):
    """A memory log that counts the runs which a request looks at; background work has other tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = 0
        self.asking: object = None

    async def list(
        self,
        *,
        workflow: str | None = None,
        status: Status | None = None,
        before: str | None = None,
        limit: int = 100,
    ) -> Sequence[RunInfo]:
        page = await super().list(workflow=workflow, status=status, before=before, limit=limit)
        if asyncio.current_task() is self.asking:
            self.listed += len(page)
        return page


class Place:
    """A server with runs of ours among many that are not; `key` is for ours alone."""

    def __init__(self, folder: Path) -> None:
        self.log = CountingLog()
        self.keys = folder / "keys"
        self.key = create_key(self.keys, ("runs:read",), runs=("ours-*",))[0]
        self.app = self.server()

    def server(self) -> App:
        return create_app(
            self.log, access=choose_access("0.0.0.0", Credentials(keys_file=self.keys))
        )

    async def ask(self, query: str = "") -> Answer:
        self.log.listed, self.log.asking = 0, asyncio.current_task()
        headers = {"authorization": f"Bearer {self.key}"}
        return await call(self.app, "GET", "/v1/runs", headers, query=query)


@pytest.fixture
async def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Place]:
    monkeypatch.setattr(runs, "LIST_LOOKED_AT_MAX", LOOKED_AT_MAX)
    monkeypatch.setattr(runs, "LIST_LIMIT_MAX", 10)
    made = Place(tmp_path)
    # Two of ours at the beginning, one in the middle, and one that is the newest of all.
    for number in range(THEIRS):
        await made.log.open(f"theirs-{number}", producer=None, workflow="w")
        if number in (0, 1, THEIRS // 2, THEIRS - 1):
            await made.log.open(f"ours-{number}", producer=None, workflow="w")
    yield made
    await made.app.stop()


@pytest.mark.parametrize("limit", [1, 2, 10])
async def test_pages_one_after_the_other_show_what_the_key_may_see_and_each_is_a_bounded_look(
    place: Place, limit: int
) -> None:
    found: list[str] = []
    before: str | None = ""
    while before is not None:
        page = await place.ask(f"limit={limit}" + (f"&before={before}" if before else ""))
        assert page.status == 200
        assert place.log.listed <= LOOKED_AT_MAX + 10
        assert b"theirs" not in page.body
        assert len(page.json["runs"]) <= limit
        found += [run["run_id"] for run in page.json["runs"]]
        before = page.json["next"]
    assert found == [f"ours-{number}" for number in (THEIRS - 1, THEIRS // 2, 1, 0)]


async def hidden_next(place: Place) -> str:
    """A `next` that stands for a run which is not ours."""
    shown: str = (await place.ask("limit=10")).json["next"]
    assert shown.startswith("~")
    return shown


async def test_a_hidden_position_is_good_at_every_server_with_the_same_secret(
    place: Place,
) -> None:
    query = f"before={await hidden_next(place)}"
    expected = await place.ask(query)
    place.app = place.server()
    assert (await place.ask(query)).json["runs"] == expected.json["runs"]


async def test_a_hidden_position_of_another_server_is_refused(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    elsewhere = Place(other)
    made_up = elsewhere.app._access.hide("theirs-1")  # pyright: ignore[reportPrivateUsage] - as it would
    forged = (await hidden_next(place))[:40].swapcase()
    for text in (made_up, "~", "~abc", "~%ff", "~%C3%A9", forged):
        refused = await place.ask(f"before={text}")
        assert (refused.status, refused.json["code"]) == (400, "invalid_input"), text


async def test_a_hidden_position_whose_run_was_removed_names_it_not(place: Place) -> None:
    shown = await hidden_next(place)
    run_id = place.app._access.reveal(shown)  # pyright: ignore[reportPrivateUsage] - what no caller sees
    await place.log.append(run_id, [make_draft(run_id, "run.completed", {})], final=True)
    await place.log.remove(run_id)
    refused = await place.ask(f"before={shown}")
    assert (refused.status, refused.json["code"]) == (400, "invalid_input")
    assert b"theirs" not in refused.body


async def test_our_client_goes_on_until_it_has_what_was_asked_for() -> None:
    run: dict[str, object] = json.loads(run_answer().partition(b"\r\n\r\n")[2])
    bodies: list[dict[str, object]] = [
        {"runs": [], "next": "~hidden=="},
        {"runs": [{**run, "run_id": "ours-2"}], "next": "~more"},
        {"runs": [{**run, "run_id": "ours-1"}], "next": None},
    ]
    pages = iter(bodies)

    async def script(_request: Request, line: Line) -> None:
        await line.send(answer(200, next(pages)))

    async with scripted_server(script) as server:
        log = HttpLog(server.url)
        try:
            found = await log.list(limit=5)
        finally:
            await log.aclose()
        asked = [request.path.partition("?")[2] for request in server.requests]
    assert [info.run_id for info in found] == ["ours-2", "ours-1"]
    assert asked == ["limit=5", "before=~hidden%3D%3D&limit=5", "before=~more&limit=4"]


async def test_others_have_their_turn_while_a_long_list_is_looked_through(place: Place) -> None:
    asking = asyncio.create_task(place.ask("limit=1"))
    await asyncio.sleep(0)
    assert not asking.done()
    assert (await asking).status == 200
