"""How streams end that are not over: the server goes, the token expires, the worker dies, records go."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import IO

import pytest

from event_stream import (
    COMPLETED,
    EventStream,
    append,
    open_run,
    seqs,
    tokens,
)
from server_process import ServerProcess, running_server
from services.engine import find_program
from tuned_server import tuned_server


def test_a_server_that_stops_says_so_and_when_to_come_back(server: ServerProcess) -> None:
    open_run(server, "r")
    append(server, "r", *tokens(2))
    with (
        EventStream(server, "r") as stream,
        EventStream(server, "r", accept="application/x-ndjson") as lines,
    ):
        stream.until("token")
        stream.until("token")
        for _ in range(3):
            lines.next_line()
        server.stop(signal.SIGTERM)
        (error,) = stream.rest()
        assert (error.kind, error.seq, error.data["status"]) == ("stream.error", 2, 503)
        assert "the server is stopping" in error.data["detail"]
        assert 1000 <= int(error.retry) < 10_000
        last = lines.next_line()
        assert (last["kind"], last["data"]) == ("stream.error", error.data)
        assert last["cursor"] == error.id
    server.start()
    append(server, "r", COMPLETED, final=True)
    with EventStream(server, "r", last_event_id=error.id) as stream:
        assert seqs(stream.rest()) == [3]


def test_over_http_2_a_stream_comes_live_and_ends_with_the_servers_reason(
    server: ServerProcess,
) -> None:
    open_run(server, "r")
    command = [find_program("curl"), "--silent", "--no-buffer", "--http2-prior-knowledge"]
    command += ["--max-time", "60", f"{server.url}/v1/runs/r/events"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        try:
            for number in range(1, 11):
                append(server, "r", {"kind": "note", "data": number})
                wait_line(curl.stdout, f'"data":{number}')
            server.stop()
            wait_line(curl.stdout, '"status":503')
            assert curl.wait(60) == 0
        finally:
            curl.kill()


def wait_line(output: IO[str] | None, text: str) -> None:
    assert output is not None
    for line in output:
        if text in line:
            return
    raise AssertionError(f"the stream ended without {text!r}")


def test_a_server_that_was_killed_goes_on_where_each_subscriber_was(server: ServerProcess) -> None:
    open_run(server, "r")
    with EventStream(server, "r") as stream:
        append(server, "r", *tokens(3))
        stream.until("token")
        last = stream.until("token")[-1]
        server.restart()
    append(server, "r", COMPLETED, final=True)
    with EventStream(server, "r", last_event_id=last.id) as stream:
        assert seqs(stream.rest()) == [3, 4]


def test_a_stream_that_was_rebuilt_is_a_gap_and_then_its_first_record(tmp_path: Path) -> None:
    with running_server(tmp_path, "memory:") as server:
        open_run(server, "r")
        append(server, "r", *tokens(3))
        with EventStream(server, "r") as stream:
            last = stream.until("token")[-1]
        server.restart()
        open_run(server, "r")
        append(server, "r", *tokens(1), COMPLETED, final=True)
        with EventStream(server, "r", last_event_id=last.id) as stream:
            frames = stream.rest()
        gap = next(frame for frame in frames if frame.kind == "stream.gap")
        assert gap.id.partition(".")[0] != last.id.partition(".")[0]
        assert gap.data["data"] == {
            "reason": "generation_changed", "from_seq": 2, "to_seq": None, "next_seq": 1,
        }  # fmt: skip
        assert "seq" not in gap.data
        assert seqs(frames[frames.index(gap) :]) == [1, 2]
        page = server.call(
            "GET", f"/v1/runs/r/events?after={last.id}", headers={"accept": "application/json"}
        )
        assert (page.status, page.json["code"]) == (410, "generation_changed")
        assert page.json["generation"] == gap.id.partition(".")[0]


def test_trimmed_records_are_a_gap_and_then_the_first_one_left(server: ServerProcess) -> None:
    open_run(server, "r")
    append(server, "r", *tokens(4))
    assert server.call("POST", "/v1/runs/r/trim", {"through": 3}).status == 204
    append(server, "r", COMPLETED, final=True)
    with EventStream(server, "r", "from_seq=2") as stream:
        frames = stream.rest()
    assert [frame.kind for frame in frames] == [
        "stream.cursor", "stream.gap", "token", "run.completed", "stream.end",
    ]  # fmt: skip
    assert frames[1].seq == 3
    assert frames[1].data["data"] == {
        "reason": "trimmed", "from_seq": 2, "to_seq": 3, "next_seq": 4,
    }  # fmt: skip


@pytest.mark.parametrize("grace_s", [0.0, 0.2])
def test_a_run_whose_worker_died_ends_for_its_subscribers(
    server: ServerProcess, grace_s: float
) -> None:
    open_run(server, "r", producer="p", lease_s=0.2, grace_s=grace_s)
    with EventStream(server, "r") as stream:
        kinds = [frame.kind for frame in stream.rest()]
    stalled = ["run.stalled"] if grace_s else []
    assert kinds == ["stream.cursor", *stalled, "run.lost", "stream.end"]


def test_a_token_that_expires_ends_a_long_stream_with_the_reason(tmp_path: Path) -> None:
    with tuned_server(tmp_path / "server", f"sqlite:{tmp_path}/e.db", token_s=2.0) as server:
        open_run(server, "r")
        append(server, "r", *tokens(1))
        with EventStream(server, "r") as stream:
            *_, error = stream.rest()
        assert (error.kind, error.data["status"], error.retry) == ("stream.error", 401, "")
        assert error.seq == 1


def test_a_stream_of_a_server_without_streaming_is_refused(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/e.db"
    with (
        running_server(tmp_path, url, "--no-streaming") as server,
        EventStream(server, "r") as stream,
    ):
        assert stream.status == 501
