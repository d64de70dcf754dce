"""Many subscribers and slow ones: each is looked after, none is at another's expense."""

from __future__ import annotations

import re
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from event_stream import (
    COMPLETED,
    FRAME_S_MAX,
    EventStream,
    append,
    open_run,
    seqs,
    tokens,
)
from server_process import ServerProcess
from tuned_server import tuned_server

# More than all buffers between a server and a client that does not read.
FLOOD_RECORDS = 40
FLOOD_BYTES = 500_000


@pytest.fixture
def tuned(tmp_path: Path) -> Generator[ServerProcess]:
    with tuned_server(
        tmp_path / "server",
        f"sqlite:{tmp_path}/events.db",
        heartbeat_s=0.2,
        subscribers_per_run_max=2,
        subscriber_bytes_max=50_000,
    ) as server:
        yield server


def figure(server: ServerProcess, name: str) -> float:
    """One of the server's metrics; one with a label is there once it was counted."""
    text = server.call("GET", "/metrics").body.decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_for_figure(server: ServerProcess, name: str, value: float) -> None:
    deadline = time.monotonic() + FRAME_S_MAX
    while (found := figure(server, name)) != value:
        assert time.monotonic() < deadline, f"{name} stays {found}"


def flood(server: ServerProcess, run_id: str) -> None:
    for _ in range(FLOOD_RECORDS // 4):
        append(server, run_id, *[{"kind": "token", "data": "x" * FLOOD_BYTES}] * 4)


def test_silence_is_broken_by_comments_and_in_lines_by_the_cursor(tuned: ServerProcess) -> None:
    open_run(tuned, "r")
    with (
        EventStream(tuned, "r") as stream,
        EventStream(tuned, "r", accept="application/x-ndjson") as lines,
    ):
        assert [frame.kind for frame in (stream.until(":"))] == ["stream.cursor", ":"]
        first, second = lines.next_line(), lines.next_line()
        assert first["kind"] == second["kind"] == "stream.cursor"
        assert first["cursor"] == second["cursor"]


def test_one_subscriber_too_many_is_told_so_and_has_room_once_another_left(
    tuned: ServerProcess,
) -> None:
    open_run(tuned, "r")
    with EventStream(tuned, "r"):
        with EventStream(tuned, "r") as second:
            second.until("stream.cursor")
            with EventStream(tuned, "r") as third:
                assert third.status == 429
                assert b"too_many_subscribers" in third.body()
        wait_for_figure(tuned, "runstream_subscribers", 1)
        with EventStream(tuned, "r") as again:
            assert again.status == 200


def test_a_subscriber_that_takes_nothing_is_cut_and_no_other_notices(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/events.db"
    with tuned_server(tmp_path / "server", url, stalled_s_max=2.0) as server:
        open_run(server, "r")
        cut_one_of_two(server)


def cut_one_of_two(tuned: ServerProcess) -> None:
    with (
        EventStream(tuned, "r") as stalled,
        EventStream(tuned, "r") as reading,
        ThreadPoolExecutor(1) as pool,
    ):
        stalled.until("stream.cursor")
        frames = pool.submit(reading.rest)
        flood(tuned, "r")
        wait_for_figure(tuned, 'runstream_subscribers_cut_total{reason="stalled"}', 1)
        append(tuned, "r", COMPLETED, final=True)
        assert seqs(frames.result()) == list(range(1, FLOOD_RECORDS + 2))
    wait_for_figure(tuned, "runstream_subscribers", 0)
    assert "took nothing" in tuned.output


def test_a_subscriber_far_behind_gets_everything_from_the_log(tuned: ServerProcess) -> None:
    open_run(tuned, "r")
    with EventStream(tuned, "r") as stream:
        stream.until("stream.cursor")
        # Fifty times what the server keeps for those who are behind.
        for _ in range(25):
            append(tuned, "r", *tokens(1000, correlation_id="x" * 100))
        append(tuned, "r", COMPLETED, final=True)
        assert seqs(stream.rest()) == list(range(1, 25_002))
