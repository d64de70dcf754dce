"""GET events as a page of JSON: what `Log.read` needs, and a long poll for those who cannot stream."""

from __future__ import annotations

import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from event_stream import COMPLETED, append, open_run, tokens
from server_process import ServerProcess


@pytest.fixture
def run(shared_server: ServerProcess) -> str:
    """A new run."""
    name = secrets.token_hex(8)
    open_run(shared_server, name)
    return name


def page(server: ServerProcess, run_id: str, query: str = "") -> Any:
    answer = server.call(
        "GET", f"/v1/runs/{run_id}/events?{query}", headers={"accept": "application/json"}
    )
    assert answer.status == 200, answer
    return answer.json


def seqs(found: Any) -> list[int]:
    return [record["seq"] for record in found["records"]]


def test_pages_follow_one_another_by_their_cursors(shared_server: ServerProcess, run: str) -> None:
    append(shared_server, run, *tokens(4), COMPLETED, final=True)
    first = page(shared_server, run, "limit=2")
    assert (seqs(first), first["first_seq"], first["ended"]) == ([1, 2], 1, False)
    second = page(shared_server, run, f"limit=3&after={first['cursor']}")
    assert (seqs(second), second["first_seq"], second["ended"]) == ([3, 4, 5], 3, True)
    assert second["cursor"] == f"{second['generation']}.5"
    last = page(shared_server, run, f"after={second['cursor']}")
    assert (seqs(last), last["first_seq"], last["ended"]) == ([], 6, True)


def test_a_filtered_page_is_full_or_moves_the_cursor_behind_what_it_left_out(
    shared_server: ServerProcess, run: str
) -> None:
    append(shared_server, run, *tokens(3), {"kind": "note"}, *tokens(3), {"kind": "note"})
    found = page(shared_server, run, "kinds=note&limit=1")
    assert (seqs(found), found["first_seq"]) == ([4], 4)
    found = page(shared_server, run, f"kinds=note&after={found['cursor']}")
    assert (seqs(found), found["ended"]) == ([8], False)
    append(shared_server, run, *tokens(2))
    found = page(shared_server, run, f"kinds=note&after={found['cursor']}")
    assert (seqs(found), found["cursor"]) == ([], f"{found['generation']}.10")


def test_a_childs_page_ends_with_the_child_and_the_streams_does_not(
    shared_server: ServerProcess, run: str
) -> None:
    child = f"{run}-child"
    open_run(shared_server, child, parent_run_id=run)
    append(shared_server, run, *tokens(1), *tokens(1, run_id=child))
    append(shared_server, run, {**COMPLETED, "run_id": child}, *tokens(1))
    found = page(shared_server, child)
    assert (seqs(found), found["ended"]) == ([2, 3], True)
    behind = page(shared_server, child, f"after={found['cursor']}&wait=25")
    assert (seqs(behind), behind["ended"]) == ([], True)
    whole = page(shared_server, child, "stream=true")
    assert (seqs(whole), whole["ended"]) == ([1, 2, 3, 4], False)


def test_a_long_poll_answers_with_the_first_record_that_comes(
    shared_server: ServerProcess, run: str
) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(page, shared_server, run, "wait=25&kinds=note")
        append(shared_server, run, *tokens(2))
        append(shared_server, run, {"kind": "note"})
        assert seqs(waiting.result()) == [3]


def test_a_long_poll_for_which_nothing_comes_is_an_empty_page(
    shared_server: ServerProcess, run: str
) -> None:
    append(shared_server, run, *tokens(2))
    began = time.monotonic()
    found = page(shared_server, run, "wait=0.2&kinds=note")
    assert time.monotonic() - began >= 0.2
    assert (seqs(found), found["cursor"], found["ended"]) == ([], f"{found['generation']}.2", False)


def test_a_long_poll_ends_with_the_run(shared_server: ServerProcess, run: str) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(page, shared_server, run, "wait=25")
        append(shared_server, run, COMPLETED, final=True)
        found = waiting.result()
    assert (seqs(found), found["ended"]) == ([1], True)


@pytest.mark.parametrize(("after", "status"), [("0.9", 409), ("abc.0", 410), ("0.0", 410)])
def test_a_page_from_a_position_that_is_gone_is_an_error(
    shared_server: ServerProcess, run: str, after: str, status: int
) -> None:
    append(shared_server, run, *tokens(3))
    assert shared_server.call("POST", f"/v1/runs/{run}/trim", {"through": 1}).status == 204
    answer = shared_server.call(
        "GET", f"/v1/runs/{run}/events?after={after}", headers={"accept": "application/json"}
    )
    assert answer.status == status
    assert answer.json.get("first_seq") == (None if status == 409 else 2)
