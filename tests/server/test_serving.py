"""`runstream serve` as a process: how it starts, speaks, and goes."""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from certificate import make_certificate
from command_process import run_command
from programs import run_program, wait_until
from runstream import connect
from server_process import Reply, ServerProcess, running_server
from services.engine import answers, free_port

# The first bytes of HTTP/2: the client's preface and an empty SETTINGS frame.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
SETTINGS = 4
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def read_exactly(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = line.recv(size - len(data))
        assert part, f"hung up after {data!r}"
        data += part
    return data


def test_it_says_where_it_listens_and_is_alive_and_ready(server: ServerProcess) -> None:
    assert f"at {server.url}" in server.output
    assert server.call("GET", "/healthz/live").json == {"live": True}
    assert server.call("GET", "/healthz").json == {"live": True, "ready": True}
    assert server.call("HEAD", "/healthz").status == 200


def test_it_speaks_http_2_without_tls(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        line.sendall(PREFACE)
        assert read_exactly(line, 9)[3] == SETTINGS


def test_it_serves_https_and_chooses_http_2_where_the_client_can(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    port = free_port()
    listening = f"Listening(port={port}, tls_cert=Path({str(cert)!r}), tls_key=Path({str(key)!r}))"
    with run_program(SERVE.replace("LISTENING", listening)) as program:
        program.wait_line("ready")
        context = ssl.create_default_context(cafile=str(cert))
        context.set_alpn_protocols(["h2", "http/1.1"])
        wait_until(lambda: answers(port), "it listens")
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
        ):
            assert line.selected_alpn_protocol() == "h2"
            line.sendall(PREFACE)
            assert read_exactly(line, 9)[3] == SETTINGS
        context.set_alpn_protocols(["http/1.1"])
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as line,
        ):
            line.sendall(b"GET /healthz/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            assert line.recv(1000).startswith(b"HTTP/1.1 200")


SERVE = """
import asyncio
from pathlib import Path
from runstream.server.app import create_app
from runstream.server.serving import Listening, serve

def ready():
    print("ready", flush=True)

asyncio.run(serve(create_app("memory:"), LISTENING, ready))
"""


# An empty frame of settings, with which a client begins.
HTTP_2_SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])


def test_headers_that_come_too_slowly_are_not_waited_for(tmp_path: Path) -> None:
    port = free_port()
    listening = f"Listening(port={port}, header_read_s=1.0)"
    with run_program(SERVE.replace("LISTENING", listening)) as program:
        program.wait_line("ready")
        wait_until(lambda: answers(port), "it listens")
        with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
            line.sendall(b"GET /healthz/live HTTP/1.1\r\nho")
            assert line.recv(1000) == b""
        with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
            line.sendall(b"GET /healthz/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert line.recv(1000).startswith(b"HTTP/1.1 200")
            # A connection that stays idle is closed, too.
            assert line.recv(1000) == b""
        with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
            # Over HTTP/2 it may, if its client answers to a ping.
            line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HTTP_2_SETTINGS)
            while line.recv(1000):
                pass


@pytest.mark.skipif(sys.platform == "win32", reason="there is no uvloop")
@pytest.mark.parametrize(
    ("hidden", "loop"), [((), "uvloop"), (("uvloop",), "asyncio")], ids=["with", "without"]
)
def test_it_runs_in_uvloop_where_there_is_one(hidden: tuple[str, ...], loop: str) -> None:
    with run_program(RUN.replace("PORT", str(free_port())), *hidden) as program:
        assert program.read_line().startswith(loop)
        # It goes like any other.
        assert program.finish() == "gone\n"


RUN = """
import asyncio, signal, sys
from runstream.server.app import create_app
from runstream.server.serving import Listening, run

for module in sys.argv[1:]:
    sys.modules[module] = None  # as if it were not installed

def ready():
    print(type(asyncio.get_running_loop()).__module__, flush=True)
    signal.raise_signal(signal.SIGTERM)

run(create_app("memory:"), Listening(port=PORT), ready)
print("gone", flush=True)
"""


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--port", "0"], 2, "--port"),
        (["--tls-cert", "cert.pem"], 2, "go together"),
        (["--tls-cert", "no.pem", "--tls-key", "no.pem"], 2, "no.pem"),
        (["--url", "nonsense:"], 2, "nonsense:"),
        (["--host", "0.0.0.0"], 2, "--keys"),
        (["no_such_file.py"], 2, "no_such_file.py"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_to_do(
    sqlite_url: str, options: list[str], code: int, said: str
) -> None:
    ended = run_command(sqlite_url, "serve", "--port", str(free_port()), *options)
    assert ended.returncode == code
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_encrypted_key_is_refused_instead_of_asked_about(
    tmp_path: Path, sqlite_url: str
) -> None:
    cert, key = make_certificate(tmp_path)
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"sesame"),
        )
    )
    ended = run_command(
        sqlite_url,
        "serve",
        "--port",
        str(free_port()),
        "--tls-cert",
        str(cert),
        "--tls-key",
        str(key),
    )
    assert ended.returncode == 2
    assert "is encrypted" in ended.stderr


def test_an_address_that_is_taken_is_said(server: ServerProcess) -> None:
    ended = run_command(server.log_url, "serve", "--port", str(server.port))
    assert ended.returncode == 4
    assert server.url in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_address_that_another_program_has_is_said(sqlite_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ended = run_command(sqlite_url, "serve", "--port", str(other.getsockname()[1]))
    assert ended.returncode == 4
    assert "cannot listen" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_address_of_another_machine_is_said(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s" * 64)
    options = ["--host", "192.0.2.1", "--jwt-secret", str(tmp_path / "secret")]
    ended = run_command(sqlite_url, "serve", *options)
    assert ended.returncode == 4
    assert "cannot listen at http://192.0.2.1:4747" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_listens_at_a_name(tmp_path: Path, sqlite_url: str) -> None:
    with running_server(tmp_path, sqlite_url, "--host", "localhost") as server:
        assert f"at http://localhost:{server.port} (auth: off" in server.output
        assert server.call("GET", "/healthz").json == {"live": True, "ready": True}


def test_a_name_that_is_none_is_said(sqlite_url: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s" * 64)
    options = ["--host", "a..b", "--jwt-secret", str(tmp_path / "secret")]
    ended = run_command(sqlite_url, "serve", *options)
    assert ended.returncode == 2
    assert "'a..b' has no address" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_streaming_events_are_neither_taken_nor_shown(
    tmp_path: Path, sqlite_url: str
) -> None:
    with running_server(tmp_path, sqlite_url, "--no-streaming") as server:
        assert server.call("PUT", "/v1/runs/r", {"workflow": "w"}).status == 201
        for answer in (
            server.call("POST", "/v1/runs/r/events", {"events": [{"kind": "a"}]}),
            server.call("GET", "/v1/runs/r/events"),
        ):
            assert (answer.status, answer.json["code"]) == (501, "streaming_off")
        assert server.call("GET", "/v1/runs/r").json["last_seq"] == 0


def test_it_goes_at_once_when_nobody_is_there(server: ServerProcess) -> None:
    line = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    line.sendall(b"GET /healthz/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
    assert line.recv(1000).startswith(b"HTTP/1.1 200")
    # An idle connection keeps nobody waiting.
    server.stop()
    assert server.returncode == 0
    assert line.recv(1000) == b""
    line.close()


def test_when_it_stops_who_waits_is_answered_and_what_is_sent_is_stored(
    server: ServerProcess,
) -> None:
    server.call("PUT", "/v1/runs/r", {"workflow": "w"})
    body = json.dumps({"events": [{"kind": "a", "data": "x" * 1000}] * 500}).encode()
    request = (
        b"POST /v1/runs/r/events HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        b"expect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(body)
    )
    replies: list[Reply] = []
    waiting = threading.Thread(
        target=lambda: replies.append(server.call("GET", "/v1/runs/r?after=0&wait=30"))
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        line.sendall(request)
        # (It says so once it reads the body: what has not reached it yet, it owes nothing.)
        assert read_exactly(line, len(CONTINUE)) == CONTINUE
        line.sendall(body[:1000])
        waiting.start()
        stopping = threading.Thread(target=server.stop)
        stopping.start()
        wait_until(lambda: not ready(server), "it is about to stop")
        waiting.join()
        line.sendall(body[1000:])
        assert line.recv(1000).startswith(b"HTTP/1.1 200")
    stopping.join()
    assert server.returncode == 0
    assert [reply.status for reply in replies] == [200]
    with connect(server.log_url) as streams:
        assert len(list(streams.subscribe("r", follow=False))) == 500


def test_a_request_that_does_not_end_is_told_once_and_given_up(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as line:
        line.sendall(
            b"PUT /v1/runs/r HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"expect: 100-continue\r\ncontent-length: 10\r\n\r\n"
        )
        assert read_exactly(line, len(CONTINUE)) == CONTINUE
        server.stop()
        assert server.returncode == 0
        assert server.output.count("requests that did not end in time: 1") == 1
        assert "Traceback" not in server.output


def ready(server: ServerProcess) -> bool:
    try:
        return server.call("GET", "/healthz").status == 200
    except OSError:
        return False


def test_it_takes_as_many_connections_as_its_operator_allows(server: ServerProcess) -> None:
    limits = Path(f"/proc/{server.pid}/limits").read_text().splitlines()
    (soft, hard) = next(line.split()[3:5] for line in limits if line.startswith("Max open files"))
    assert soft == hard
