"""Requests that no honest client sends, to a real server: it answers, stays small, and serves the others."""

from __future__ import annotations

import gzip
import json
import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from programs import wait_until
from server_process import Reply, ServerProcess
from services.engine import find_program
from tuned_server import tuned_server

MIB = 1024 * 1024
PROBLEM = "application/problem+json"


@pytest.fixture
def run(shared_server: ServerProcess) -> str:
    """A new run."""
    name = secrets.token_hex(8)
    assert shared_server.call("PUT", f"/v1/runs/{name}", {"workflow": "w"}).status == 201
    return name


def head(run_id: str, *lines: str) -> bytes:
    """The beginning of a request that appends events."""
    named = [f"POST /v1/runs/{run_id}/events HTTP/1.1", "host: localhost", *lines]
    if not any(line.startswith("content-type:") for line in lines):
        named.append("content-type: application/json")
    return "\r\n".join([*named, "", ""]).encode()


def post(server: ServerProcess, run_id: str, body: bytes, **headers: str) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.call("POST", f"/v1/runs/{run_id}/events", body, headers=named)


def last_seq(server: ServerProcess, run_id: str) -> int:
    return int(server.call("GET", f"/v1/runs/{run_id}").json["last_seq"])


def rss_bytes(server: ServerProcess) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def a_hundred_mib(size: int = MIB) -> Iterator[bytes]:
    part = b"x" * size
    return (part for _ in range(100 * MIB // size))


def test_a_body_of_100_mib_is_refused_at_the_sight_of_its_length(
    shared_server: ServerProcess, run: str
) -> None:
    before = rss_bytes(shared_server)
    answer = shared_server.send_raw(head(run, f"content-length: {100 * MIB}"), *a_hundred_mib())
    assert status_of(answer) == 413
    assert json.loads(answer.rpartition(b"\r\n\r\n")[2])["code"] == "request_too_large"
    assert rss_bytes(shared_server) - before < 16 * MIB


def test_a_body_that_never_says_how_long_it_is_is_refused_once_it_is_too_long(
    shared_server: ServerProcess, run: str
) -> None:
    before = rss_bytes(shared_server)
    chunks = (b"%x\r\n%b\r\n" % (len(part), part) for part in a_hundred_mib())
    answer = shared_server.send_raw(head(run, "transfer-encoding: chunked"), *chunks)
    assert status_of(answer) == 413
    assert rss_bytes(shared_server) - before < 32 * MIB


def test_a_gzip_bomb_is_not_unpacked(shared_server: ServerProcess, run: str) -> None:
    bomb = gzip.compress(b" " * (500 * MIB), compresslevel=9)
    assert len(bomb) < MIB
    before = rss_bytes(shared_server)
    answer = post(shared_server, run, bomb, content_encoding="gzip")
    assert (answer.status, answer.json["code"]) == (413, "request_too_large")
    assert rss_bytes(shared_server) - before < 32 * MIB


# (Each worker of pytest collects the same tests, whenever it does: gzip would write the time into it.)
PACKED = gzip.compress(b'{"events":[{"kind":"a"}]}', mtime=0)


@pytest.mark.parametrize(
    "body",
    [b"no gzip at all", PACKED[:-4], PACKED + b"and more"],
    ids=["none", "cut", "longer"],
)
def test_a_packed_body_must_be_whole(shared_server: ServerProcess, run: str, body: bytes) -> None:
    answer = post(shared_server, run, body, content_encoding="gzip")
    assert (answer.status, answer.json["code"]) == (400, "invalid_input")


@pytest.mark.parametrize(
    "garbage", [b"ZZZ\r\nhello\r\n", b"5\r\nhelloXX", b"-1\r\n\r\n", b"ffffffffffffffffff\r\nx\r\n"]
)
def test_chunks_that_are_garbage_are_the_clients_mistake(
    shared_server: ServerProcess, run: str, garbage: bytes
) -> None:
    answer = shared_server.send_raw(head(run, "transfer-encoding: chunked"), garbage)
    assert status_of(answer) == 400
    assert last_seq(shared_server, run) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"not json",
        b'{"events":[{"kind":"a"}]} and more',
        b'{"events":[{"kind":"a"}],}',
        b'{"events":[{"kind":"a"}],"colour":"red"}',
        b'{"events":{"kind":"a"}}',
        b'{"events":[{"kind":"a"}],"final":1}',
        b'{"events":[{"kind":"\xff"}]}',
        b'{"events":[{"kind":"a","data":"\xc3("}]}',
        b'{"events":[{"kind":"a","data":"\xed\xa0\x80"}]}',
        b'\xef\xbb\xbf{"events":[{"kind":"a"}]}',
        '{"events":[{"kind":"a"}]}'.encode("utf-16"),
        b'{"events":[{"kind":"a","data":' + b"[" * 200_000,
        b'{"events":[{"kind":"a","data":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}]}",
    ],
    ids=lambda body: body[:40],
)
def test_a_body_that_is_not_what_the_route_takes_stores_nothing(
    shared_server: ServerProcess, run: str, body: bytes
) -> None:
    answer = post(shared_server, run, body)
    assert (answer.status, answer.headers["content-type"]) == (400, PROBLEM)
    assert last_seq(shared_server, run) == 0


def test_of_members_that_are_there_twice_the_last_one_counts(
    shared_server: ServerProcess, run: str
) -> None:
    body = b'{"events":[{"kind":"a"},{"kind":"b"}],"events":[{"kind":"c","kind":"d"}]}'
    assert post(shared_server, run, body).json == {"first_seq": 1, "last_seq": 1, "duplicates": 0}
    page = shared_server.call(
        "GET", f"/v1/runs/{run}/events", headers={"accept": "application/json"}
    )
    assert [record["kind"] for record in page.json["records"]] == ["d"]


@pytest.mark.parametrize(
    "media_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"],
)
def test_a_body_of_another_type_is_refused(
    shared_server: ServerProcess, run: str, media_type: str
) -> None:
    # Such as a web page may send without asking first.
    answer = post(shared_server, run, b'{"events":[{"kind":"a"}]}', content_type=media_type)
    assert (answer.status, answer.json["code"]) == (415, "unsupported_media_type")
    assert last_seq(shared_server, run) == 0


@pytest.mark.parametrize("encoding", ["br", "deflate", "gzip, gzip"])
def test_a_body_packed_in_another_way_is_refused(
    shared_server: ServerProcess, run: str, encoding: str
) -> None:
    answer = post(shared_server, run, b"x", content_encoding=encoding)
    assert (answer.status, answer.headers["accept-encoding"]) == (415, "gzip")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "not_found"),
        ("GET", "/v1/runs/", 404, "not_found"),
        ("GET", "/v1/runs/x/events/1", 404, "not_found"),
        ("GET", "/v1/runs/unknown", 404, "run_not_found"),
        ("GET", "/v1/runs/unknown/events", 404, "run_not_found"),
        ("GET", "/v1/runs/%20", 400, "invalid_input"),
        ("GET", "/v1/runs/..%2f..%2fetc", 404, "not_found"),
        ("GET", "/v1/runs/%ff", 400, "invalid_input"),
        ("GET", f"/v1/runs/{'x' * 129}", 400, "invalid_input"),
        ("DELETE", "/v1/runs/x/events", 405, "method_not_allowed"),
        ("POST", "/v1/runs", 405, "method_not_allowed"),
        ("BREW", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_an_address_that_leads_nowhere_is_a_problem(
    shared_server: ServerProcess, method: str, path: str, status: int, code: str
) -> None:
    answer = shared_server.call(method, path)
    assert (answer.status, answer.headers["content-type"]) == (status, PROBLEM)
    assert (answer.json["code"], answer.json["status"]) == (code, status)
    assert ("allow" in answer.headers) == (status == 405)


def test_events_for_a_run_that_is_not_there_are_refused(shared_server: ServerProcess) -> None:
    answer = post(shared_server, "nobody-opened-this", b'{"events":[{"kind":"a"}]}')
    assert (answer.status, answer.json["code"]) == (404, "run_not_found")


def test_an_accept_that_no_answer_has_is_refused(shared_server: ServerProcess, run: str) -> None:
    answer = shared_server.call("GET", f"/v1/runs/{run}/events", headers={"accept": "image/png"})
    assert (answer.status, answer.json["code"]) == (406, "not_acceptable")


def test_cursors_that_are_not_of_this_stream_are_refused(
    shared_server: ServerProcess, run: str
) -> None:
    other = secrets.token_hex(8)
    for name in (run, other):
        shared_server.call("PUT", f"/v1/runs/{name}", {"workflow": "w"})
        post(shared_server, name, b'{"events":[{"kind":"a"},{"kind":"b"}]}')
    generation = shared_server.call("GET", f"/v1/runs/{run}").json["generation"]
    foreign = shared_server.call("GET", f"/v1/runs/{other}").json["generation"]

    def ask(after: str) -> tuple[int, str]:
        answer = shared_server.call(
            "GET", f"/v1/runs/{run}/events?after={after}", headers={"accept": "application/json"}
        )
        return answer.status, answer.json.get("code", "")

    assert ask(f"{generation}.1") == (200, "")
    assert ask(f"{generation}.3") == (409, "invalid_position")
    assert ask(f"{foreign}.1") == (410, "generation_changed")
    assert ask("garbage") == (400, "invalid_input")
    assert ask(f"{generation}.-1") == (400, "invalid_input")


def test_a_client_that_hangs_up_in_the_middle_of_a_batch_stores_nothing_of_it(
    shared_server: ServerProcess, run: str
) -> None:
    body = json.dumps({"events": [{"kind": "a", "data": "x" * 1000}] * 100}).encode()
    for cut in (1, len(body) // 2, len(body) - 1):
        beginning = head(run, f"content-length: {len(body)}") + body[:cut]
        shared_server.send_raw(beginning, hang_up=True)
    assert post(shared_server, run, body).json["first_seq"] == 1


def test_headers_have_a_limit(shared_server: ServerProcess, run: str) -> None:
    assert status_of(shared_server.send_raw(head(run, f"x-long: {'x' * 200_000}"))) == 431
    many = [f"x-{number}: 1" for number in range(5000)]
    assert status_of(shared_server.send_raw(head(run, *many))) in {400, 431}


def test_what_is_no_http_is_hung_up_on(shared_server: ServerProcess) -> None:
    for garbage in (b"\x00\x01\x02\r\n\r\n", b"HELO localhost\r\n\r\n", b"GET\r\n\r\n"):
        answer = shared_server.send_raw(garbage)
        assert not answer or status_of(answer) == 400
    assert shared_server.call("GET", "/healthz").status == 200


def test_lengths_that_disagree_are_refused(shared_server: ServerProcess, run: str) -> None:
    # Two servers in a row must not read two different requests out of one.
    two = head(run, "content-length: 5", "content-length: 6") + b"hello!"
    assert status_of(shared_server.send_raw(two)) == 400
    both = (
        head(run, "content-length: 5", "transfer-encoding: chunked")
        + b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"
    )
    answer = shared_server.send_raw(both)
    assert status_of(answer) == 400
    assert answer.count(b"HTTP/1.1") == 1


def test_connections_that_say_nothing_or_little_do_not_keep_others_from_being_served(
    server: ServerProcess,
) -> None:
    server.call("PUT", "/v1/runs/r", {"workflow": "w"})
    slow = [b"", b"POST /v1/runs/r/ev", head("r", "content-length: 1000"), head("r", "x: y")[:-2]]
    lines: list[socket.socket] = []
    try:
        for number in range(600):
            line = socket.create_connection(("127.0.0.1", server.port), timeout=30)
            line.sendall(slow[number % len(slow)])
            lines.append(line)
        assert post(server, "r", b'{"events":[{"kind":"a"}]}').status == 200
        assert server.call("GET", "/healthz").status == 200
    finally:
        for line in lines:
            line.close()
    wait_until(lambda: open_files(server) < 300, "the server lets go of connections that are gone")


def test_bodies_that_are_under_way_have_limited_room_and_small_ones_always_pass(
    tmp_path: Path, sqlite_url: str
) -> None:
    with tuned_server(tmp_path / "tuned", sqlite_url, bodies_bytes_max=4 * MIB) as server:
        server.call("PUT", "/v1/runs/r", {"workflow": "w"})
        large = json.dumps({"events": [{"kind": "a", "data": "x" * 1000}] * 1000}).encode()
        small = b'{"events":[{"kind":"a"}]}'

        def is_refused(body: bytes, **headers: str) -> bool:
            answer = post(server, "r", body, **headers)
            assert answer.status in {200, 503}, answer
            return answer.status == 503

        with ExitStack() as stack:

            def is_full() -> bool:
                if is_refused(large):
                    return True
                line = socket.create_connection(("127.0.0.1", server.port), timeout=30)
                stack.enter_context(line)
                # What is announced does not count.
                line.sendall(head("r", f"content-length: {4 * MIB}"))
                assert not is_refused(small)
                line.sendall(b" " * (7 * MIB // 2))
                return False

            wait_until(is_full, "most of a body has arrived")
            assert is_refused(gzip.compress(large), content_encoding="gzip")
            assert not is_refused(small)
        wait_until(lambda: not is_refused(large), "there is room again")


def open_files(server: ServerProcess) -> int:
    return len(list(Path(f"/proc/{server.pid}/fd").iterdir()))


@pytest.mark.parametrize("size_mib", [1, 3, 8])
@pytest.mark.parametrize(("path", "status"), [("events", 413), ("nothing", 404)])
def test_a_refusal_arrives_over_http_2_while_the_body_is_still_on_its_way(
    shared_server: ServerProcess, run: str, tmp_path: Path, size_mib: int, path: str, status: int
) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"[" * size_mib * MIB)
    if path == "events" and size_mib < 4:
        status = 400
    command = [find_program("curl"), "--silent", "--http2-prior-knowledge", "--data-binary"]
    command += [f"@{body}", "--header", "content-type: application/json", "--output", "/dev/null"]
    command += ["--write-out", "%{http_code}", f"{shared_server.url}/v1/runs/{run}/{path}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (0, str(status))
