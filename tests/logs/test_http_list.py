"""A list of runs over HTTP: the pages of a server that finds few, and of one that never finds an end."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from runstream.errors import NotALog
from runstream.logs.http import LIST_PAGES_MAX, HttpLog
from scripted_server import Line, Request, answer, run_answer, scripted_server

RUN = json.loads(run_answer().partition(b"\r\n\r\n")[2])


async def test_empty_pages_are_followed_to_the_runs_behind_them() -> None:
    async def script(request: Request, line: Line) -> None:
        [before] = parse_qs(urlsplit(request.path).query).get("before", ["0"])
        page = int(before)
        runs, behind = ([RUN], None) if page == 20 else ([], str(page + 1))
        await line.send(answer(200, {"runs": runs, "next": behind}))

    async with scripted_server(script) as server:
        log = HttpLog(server.url)
        assert [info.run_id for info in await log.list()] == ["r1"]
        assert len(server.requests) == 21
        await log.aclose()


async def test_a_server_whose_list_has_no_end_is_told_after_so_many_pages() -> None:
    async def script(_request: Request, line: Line) -> None:
        await line.send(answer(200, {"runs": [], "next": "r1"}))

    async with scripted_server(script) as server:
        log = HttpLog(server.url)
        with pytest.raises(NotALog, match="no end of runs"):
            await log.list()
        assert len(server.requests) == LIST_PAGES_MAX
        await log.aclose()
