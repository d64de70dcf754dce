"""Whole answers are packed for those who ask for it, where that pays, and go as they are read."""

from __future__ import annotations

import asyncio
import gzip
import secrets
import socket
from pathlib import Path

import pytest
from starlette.types import Message

from programs import wait_until
from runstream.logs.http import HttpLog
from runstream.logs.memory import MemoryLog
from runstream.record import Cursor
from runstream.server import packing as packing_module
from runstream.server.packing import IN_LOOP_BYTES_MAX, PART_BYTES, packing
from runstream.server.site import Site
from server_process import Reply, ServerProcess
from tuned_server import tuned_server

PAGE = "application/json"


@pytest.fixture(scope="module")
def run(shared_server: ServerProcess) -> str:
    """A run whose page is too long to be packed in the event loop."""
    name = secrets.token_hex(8)
    shared_server.call("PUT", f"/v1/runs/{name}", {"workflow": "w"})
    events = [{"kind": "note", "data": {"n": n, "text": "lorem ipsum " * 20}} for n in range(300)]
    stored = shared_server.call("POST", f"/v1/runs/{name}/events", {"events": events})
    assert stored.json["last_seq"] == 300
    return name


def get(server: ServerProcess, path: str, encoding: str | None, accept: str = PAGE) -> Reply:
    headers = {"accept": accept} | ({} if encoding is None else {"accept-encoding": encoding})
    return server.call("GET", path, headers=headers)


@pytest.mark.parametrize("encoding", ["gzip", "gzip, deflate, br, zstd", "br;q=1.0, GZIP; q=0.1"])
@pytest.mark.parametrize("query", ["", "?limit=10"])
def test_a_page_is_packed_for_who_asks_for_it(
    shared_server: ServerProcess, run: str, encoding: str, query: str
) -> None:
    path = f"/v1/runs/{run}/events{query}"
    plain, packed = get(shared_server, path, None), get(shared_server, path, encoding)
    assert (len(plain.body) > IN_LOOP_BYTES_MAX) is (query == "")
    assert "content-encoding" not in plain.headers
    assert packed.headers["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == plain.body
    assert len(packed.body) * 5 < len(plain.body)
    for answer in (plain, packed):
        assert answer.headers["vary"] == "accept-encoding"
        assert int(answer.headers["content-length"]) == len(answer.body)


@pytest.mark.parametrize(
    "encoding", ["identity", "br", "gzip;q=0", "gzip; q=0.000", "", "gzippy", "*;q=0"]
)
def test_who_does_not_ask_for_it_gets_it_plain(
    shared_server: ServerProcess, run: str, encoding: str
) -> None:
    answer = get(shared_server, f"/v1/runs/{run}/events", encoding)
    assert "content-encoding" not in answer.headers
    assert len(answer.json["records"]) == 300


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_a_stream_is_never_packed(shared_server: ServerProcess, run: str, accept: str) -> None:
    # (A browser asks for it with every request.)
    answer = get(shared_server, f"/v1/runs/{run}/events?follow=false", "gzip", accept)
    assert "content-encoding" not in answer.headers
    assert answer.body.count(b"lorem ipsum") == 300 * 20


def test_what_fits_into_a_packet_is_sent_as_it_is(shared_server: ServerProcess, run: str) -> None:
    for path in (f"/v1/runs/{run}", f"/v1/runs/{run}/events?limit=1", "/v1/runs/nobody"):
        answer = get(shared_server, path, "gzip")
        assert not {"content-encoding", "vary"} & answer.headers.keys()
        assert answer.json


def test_lists_figures_and_documents_are_packed_too(shared_server: ServerProcess, run: str) -> None:
    for number in range(10):
        shared_server.call("PUT", f"/v1/runs/{run}.{number}", {"workflow": "w"})
    for path in ("/v1/runs", "/metrics", "/openapi.json"):
        answer = get(shared_server, path, "gzip")
        assert answer.headers["content-encoding"] == "gzip", path
        assert len(gzip.decompress(answer.body)) > len(answer.body)
    head = shared_server.call("HEAD", "/openapi.json", headers={"accept-encoding": "gzip"})
    assert (head.headers["content-encoding"], head.body) == ("gzip", b"")


def test_a_long_answer_comes_whole_to_who_reads_it(shared_server: ServerProcess) -> None:
    name = secrets.token_hex(8)
    shared_server.call("PUT", f"/v1/runs/{name}", {"workflow": "w"})
    for number in range(3):
        events = [{"kind": "note", "data": f"{number} " + "x" * 1000}] * 1000
        shared_server.call("POST", f"/v1/runs/{name}/events", {"events": events})
    page = get(shared_server, f"/v1/runs/{name}/events?limit=3000", None)
    assert len(page.body) > 10 * PART_BYTES
    assert [record["seq"] for record in page.json["records"]] == list(range(1, 3001))


async def test_a_long_answer_that_nobody_reads_is_broken_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packing_module, "PART_S_MAX", 0.05)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()  # its buffers are full

    sending = packing(Site(log=MemoryLog()), {"headers": []}, send)
    await sending({"type": "http.response.start", "status": 200, "headers": []})
    async with asyncio.timeout(30):
        await sending({"type": "http.response.body", "body": b"x" * 10 * PART_BYTES})
    assert len(sent) == 4
    assert sent[-1]["more_body"]


def test_long_answers_that_nobody_reads_have_limited_room_and_short_ones_always_pass(
    tmp_path: Path, sqlite_url: str
) -> None:
    with tuned_server(tmp_path / "server", sqlite_url, answers_bytes_max=32 * PART_BYTES) as server:
        server.call("PUT", "/v1/runs/r", {"workflow": "w"})
        for _ in range(5):
            events = [{"kind": "note", "data": "x" * 1000}] * 1000
            server.call("POST", "/v1/runs/r/events", {"events": events})
        page = "/v1/runs/r/events?limit=5000"
        with socket.socket() as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.connect(("127.0.0.1", server.port))
            line.sendall(
                f"GET {page} HTTP/1.1\r\nhost: localhost\r\naccept: application/json\r\n\r\n".encode()
            )
            assert line.recv(4, socket.MSG_PEEK)  # its answer has begun
            refused = get(server, page, None)
            assert (refused.status, refused.json["code"]) == (503, "log_unavailable")
            for path in ("/v1/runs", "/v1/runs/r", "/v1/runs/r/events?limit=100"):
                assert get(server, path, None).status == 200
        wait_until(lambda: get(server, page, None).status == 200, "room for the next one")


async def test_our_client_reads_what_was_packed(shared_server: ServerProcess, run: str) -> None:
    near = HttpLog(shared_server.url)
    # As to another machine: packed in both directions.
    far = HttpLog(shared_server.url)
    far._transport._headers["accept-encoding"] = "gzip"  # pyright: ignore[reportPrivateUsage] - it goes by the address
    pages = [await log.read(run, after=Cursor(None, 0), limit=1000) for log in (near, far)]
    assert len(pages[0].drafts) == 300
    assert pages[0] == pages[1]
    for log in (near, far):
        await log.aclose()
