"""GET events as a stream: history, then live; positions, filters, children, ends."""

from __future__ import annotations

import secrets
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote, urlencode

import pytest

from event_stream import (
    COMPLETED,
    EventStream,
    append,
    open_run,
    records,
    seqs,
    tokens,
)
from server_process import ServerProcess


@pytest.fixture
def run(shared_server: ServerProcess) -> str:
    """A new run."""
    name = secrets.token_hex(8)
    open_run(shared_server, name)
    return name


def test_a_stream_is_the_history_then_what_comes_then_the_end(
    shared_server: ServerProcess, run: str
) -> None:
    append(shared_server, run, {"kind": "note", "data": {"a": [1]}, "topic": "t", "index": 3})
    with EventStream(shared_server, run) as stream:
        assert stream.status == 200
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        first, note = stream.until("note")
        assert (first.kind, first.seq, first.retry) == ("stream.cursor", 0, "1000")
        assert note.seq == 1
        assert {name: note.data[name] for name in ("seq", "run_id", "data", "topic", "index")} == {
            "seq": 1, "run_id": run, "data": {"a": [1]}, "topic": "t", "index": 3,
        }  # fmt: skip
        append(shared_server, run, *tokens(2))
        assert seqs(stream.until("token")) == [2]
        append(shared_server, run, COMPLETED, final=True)
        *live, end = stream.rest()
    assert [(frame.kind, frame.seq) for frame in live] == [("token", 3), ("run.completed", 4)]
    assert (end.kind, end.seq, end.data) == ("stream.end", 4, {"reason": "ended"})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [1, 2, 3, 4, 5, 6]),
        ("from_seq=0", [1, 2, 3, 4, 5, 6]),
        ("from_seq=4", [4, 5, 6]),
        ("after=0.4", [5, 6]),
        ("last=2", [5, 6]),
        ("last=100", [1, 2, 3, 4, 5, 6]),
        ("last=1&kinds=token", [5, 6]),
    ],
)
def test_a_stream_begins_where_it_is_asked_to(
    shared_server: ServerProcess, run: str, query: str, expected: list[int]
) -> None:
    append(shared_server, run, *tokens(5), COMPLETED, final=True)
    with EventStream(shared_server, run, query) as stream:
        assert seqs(stream.rest()) == expected


def test_the_last_event_id_resumes_behind_it_whatever_the_address_says(
    shared_server: ServerProcess, run: str
) -> None:
    append(shared_server, run, *tokens(3))
    with EventStream(shared_server, run) as stream:
        stream.until("token")
        second = stream.until("token")[-1]
    append(shared_server, run, COMPLETED, final=True)
    with EventStream(shared_server, run, "last=1", last_event_id=second.id) as stream:
        assert seqs(stream.rest()) == [3, 4]


def test_filters_are_or_within_one_and_and_across_them(
    shared_server: ServerProcess, run: str
) -> None:
    append(
        shared_server,
        run,
        {"kind": "a", "topic": "x", "correlation_id": "c,1"},
        {"kind": "b", "topic": "x", "step": "s"},
        {"kind": "a", "topic": "y"},
        {"kind": "c", "topic": "x"},
        {"kind": "stream.dropped", "data": {"count": 1, "reason": "full"}},
        COMPLETED,
        final=True,
    )
    for query, expected in (
        ("kinds=a,b&topics=x", [1, 2]),
        ("kinds=a&kinds=b&topics=x", [1, 2]),
        (urlencode({"kinds": "a,b", "topics": "x"}), [1, 2]),
        ("steps=s", [2]),
        ("correlation_ids=" + quote("c\\,1"), [1]),
        ("correlation_ids=c,1", []),
        ("kinds=", []),
    ):
        with EventStream(shared_server, run, query) as stream:
            assert seqs(stream.rest()) == [*expected, 5, 6], query


def test_a_filter_that_matches_nothing_still_moves_the_cursor_and_ends_at_the_end(
    shared_server: ServerProcess, run: str
) -> None:
    with EventStream(shared_server, run, "kinds=nothing") as stream:
        assert stream.until("stream.cursor")[-1].seq == 0
        append(shared_server, run, *tokens(3))
        moved = stream.until("stream.cursor")
        assert [(frame.seq, frame.data) for frame in moved] == [(3, {})]
    with EventStream(shared_server, run, "kinds=nothing", last_event_id=moved[0].id) as stream:
        append(shared_server, run, *tokens(3), COMPLETED, final=True)
        *_, last, end = stream.rest()
    assert (last.kind, last.seq, end.kind) == ("run.completed", 7, "stream.end")


def test_a_run_that_never_publishes_ends_for_its_subscribers(
    shared_server: ServerProcess, run: str
) -> None:
    with EventStream(shared_server, run) as stream:
        stream.until("stream.cursor")
        append(shared_server, run, COMPLETED, final=True)
        assert [frame.kind for frame in stream.rest()] == ["run.completed", "stream.end"]


def test_after_the_end_there_is_no_content_so_that_a_browser_stops(
    shared_server: ServerProcess, run: str
) -> None:
    append(shared_server, run, *tokens(1), COMPLETED, final=True)
    with EventStream(shared_server, run, "kinds=x") as stream:
        end = stream.rest()[-1]
    for query, last_event_id in (("kinds=x", end.id), ("", end.id), ("from_seq=3", None)):
        with EventStream(shared_server, run, query, last_event_id=last_event_id) as stream:
            assert (stream.status, stream.body()) == (204, b"")


def test_a_childs_stream_is_its_part_of_the_roots_and_ends_with_the_child(
    shared_server: ServerProcess, run: str
) -> None:
    child = f"{run}-child"
    append(shared_server, run, *tokens(1))
    open_run(shared_server, child, parent_run_id=run)
    with EventStream(shared_server, child) as stream:
        stream.until("stream.cursor")
        append(shared_server, run, *tokens(1), *tokens(1, run_id=child))
        append(shared_server, run, {**COMPLETED, "run_id": child}, *tokens(1))
        frames = stream.rest()
    assert seqs(frames) == [3, 4]
    assert {frame.data["run_id"] for frame in records(frames)} == {child}
    assert frames[-1].kind == "stream.end"
    with EventStream(shared_server, child) as stream:
        assert seqs(stream.rest()) == [3, 4]
    with EventStream(shared_server, child, last_event_id=frames[-1].id) as stream:
        assert stream.status == 204
    with EventStream(shared_server, child, "stream=true&follow=false") as stream:
        assert seqs(stream.rest()) == [1, 2, 3, 4, 5]


def test_what_is_stored_now_can_be_had_without_following(
    shared_server: ServerProcess, run: str
) -> None:
    append(shared_server, run, *tokens(2), {"kind": "other"})
    with EventStream(shared_server, run, "follow=false&kinds=token") as stream:
        *frames, end = stream.rest()
    assert seqs(frames) == [1, 2]
    assert (end.kind, end.seq, end.data) == ("stream.end", 3, {"reason": "caught_up"})


def test_lines_of_json_follow_too_and_each_says_where_to_resume(
    shared_server: ServerProcess, run: str
) -> None:
    append(shared_server, run, *tokens(1))
    with EventStream(shared_server, run, accept="application/x-ndjson") as stream:
        assert stream.headers["content-type"] == "application/x-ndjson"
        assert stream.next_line()["kind"] == "stream.cursor"
        first = stream.next_line()
        assert (first["seq"], first["data"]) == (1, {"text": "0 "})
        append(shared_server, run, COMPLETED, final=True)
        assert stream.next_line()["seq"] == 2
        end = stream.next_line()
        assert (end["kind"], end["data"]) == ("stream.end", {"reason": "ended"})
        assert stream.next_line() is None
    with EventStream(
        shared_server, run, f"after={first['cursor']}", accept="application/x-ndjson"
    ) as stream:
        assert [stream.next_line()["cursor"] for _ in range(3)][2] == end["cursor"]


def test_a_run_that_is_not_there_yet_can_be_waited_for(shared_server: ServerProcess) -> None:
    name = secrets.token_hex(8)
    with EventStream(shared_server, name) as stream:
        assert stream.status == 404
    with EventStream(shared_server, name, "wait=0.05") as stream:
        assert stream.status == 404
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(EventStream, shared_server, name, "wait=20")
        open_run(shared_server, name)
        append(shared_server, name, COMPLETED, final=True)
        with waiting.result() as stream:
            assert seqs(stream.rest()) == [1]


@pytest.mark.parametrize(
    ("query", "accept", "status", "code"),
    [
        ("from_seq=4", "*/*", 409, "invalid_position"),
        ("after=0.3", "*/*", 409, "invalid_position"),
        ("after=3", "*/*", 400, "invalid_input"),
        ("kind=token", "*/*", 400, "invalid_input"),
        ("limit=1", "text/event-stream", 400, "invalid_input"),
        ("limit=0", "application/json", 400, "invalid_input"),
        ("", "text/html", 406, "not_acceptable"),
        ("", "text/event-stream;q=0", 406, "not_acceptable"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_a_problem(
    shared_server: ServerProcess, run: str, query: str, accept: str, status: int, code: str
) -> None:
    append(shared_server, run, *tokens(2))
    with EventStream(shared_server, run, query, accept=accept) as stream:
        assert stream.status == status
        assert f'"code":"{code}"'.encode() in stream.body()


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "text/event-stream"),
        ("text/html, */*;q=0.1", "text/event-stream"),
        ("application/*", "application/x-ndjson"),
        ("application/json", "application/json"),
        ("application/json, text/event-stream;q=0.9", "application/json"),
        ("application/json;q=0.5, application/x-ndjson;q=0.6", "application/x-ndjson"),
        ("TEXT/EVENT-STREAM", "text/event-stream"),
    ],
)
def test_the_form_is_the_clients_choice(
    shared_server: ServerProcess, run: str, accept: str, media_type: str
) -> None:
    append(shared_server, run, COMPLETED, final=True)
    with EventStream(shared_server, run, accept=accept) as stream:
        assert (stream.status, stream.headers["content-type"]) == (200, media_type)
