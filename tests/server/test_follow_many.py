"""Many subscribers and slow ones: each is looked after, none is at another's expense."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
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
from runstream.logs.memory import MemoryLog
from runstream.record import Cursor, make_draft
from runstream.server import followers as followers_module
from runstream.server.shared_reader import SharedReader
from runstream.server.site import ServerOptions, Site
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
        subscribers_max=3,
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


def test_all_runs_together_have_a_limit_too(tuned: ServerProcess) -> None:
    for run_id in ("r", "s", "t"):
        open_run(tuned, run_id)
    with EventStream(tuned, "r"), EventStream(tuned, "r"):
        with EventStream(tuned, "s") as third:
            third.until("stream.cursor")
            with EventStream(tuned, "t") as fourth:
                assert fourth.status == 429
                assert b"this server has 3 subscribers" in fourth.body()
        wait_for_figure(tuned, "runstream_subscribers", 2)
        with EventStream(tuned, "t") as again:
            assert again.status == 200


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR, None])
def test_a_connection_that_is_half_closed_or_reset_is_let_go(
    tuned: ServerProcess, how: int | None
) -> None:
    open_run(tuned, "r")
    with socket.create_connection(("127.0.0.1", tuned.port), timeout=30) as line:
        line.sendall(b"GET /v1/runs/r/events HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert line.recv(1000).startswith(b"HTTP/1.1 200")
        wait_for_figure(tuned, "runstream_subscribers", 1)
        if how is None:
            # Closing sends a reset: something is still to be sent, and nobody waits for it.
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            line.close()
        else:
            line.shutdown(how)
        wait_for_figure(tuned, "runstream_subscribers", 0)


async def followed(site: Site, run_id: str) -> SharedReader:
    """The reader of a new run, when it has read thirty records of a good 1000 bytes."""
    opened = await site.log.open(run_id, producer=None, workflow="w")
    reader = site.followers.start_reader(run_id, Cursor(opened.info.generation, 0))
    reader.join(run_id)
    async with asyncio.timeout(30):
        for number in range(1, 31):
            await site.log.append(run_id, [make_draft(run_id, "note", {"x": "x" * 1000})])
            while reader.recent.last_seq < number:
                await asyncio.sleep(0)
    return reader


async def test_of_a_stream_that_is_followed_only_so_much_is_kept_in_memory() -> None:
    site = Site(log=MemoryLog(), options=ServerOptions(subscriber_bytes_max=10_000))
    reader = await followed(site, "r")
    assert 5_000 < reader.recent.size_bytes <= 10_000
    assert reader.recent.holds(29)
    await site.followers.aclose()
    await site.log.aclose()


async def test_streams_that_are_followed_share_the_memory_for_their_newest_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(followers_module, "RECENT_BYTES_MAX", 30_000)
    site = Site(log=MemoryLog())
    readers = [await followed(site, run_id) for run_id in ("r", "s", "t")]
    assert sum(reader.recent.size_bytes for reader in readers) > 90_000
    site.followers._look(0.0)  # pyright: ignore[reportPrivateUsage] - the clock's next tick
    for reader in readers:
        assert 5_000 < reader.recent.size_bytes <= 10_000
        assert reader.recent.holds(29)
    await site.followers.aclose()
    await site.log.aclose()


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
        # It is gone at the server, too, although its client is still there.
        wait_for_figure(tuned, "runstream_subscribers", 0)
    assert tuned.output.count("took nothing") == 1


def test_a_subscriber_far_behind_gets_everything_from_the_log(tuned: ServerProcess) -> None:
    open_run(tuned, "r")
    with EventStream(tuned, "r") as stream:
        stream.until("stream.cursor")
        # Fifty times what the server keeps for those who are behind.
        for _ in range(25):
            append(tuned, "r", *tokens(1000, correlation_id="x" * 100))
        append(tuned, "r", COMPLETED, final=True)
        assert seqs(stream.rest()) == list(range(1, 25_002))
