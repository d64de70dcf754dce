"""Who gets into a real server, as browsers and strangers knock."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from command_process import run_command
from runstream.errors import InvalidInput
from runstream.server.cors import check_origins
from runstream.server.keys import create_key
from server_process import ServerProcess, running_server

APP = "https://app.example"


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, f"sqlite:{folder}/events.db", "--cors-origin", APP) as server:
        yield server


def test_a_server_that_others_reach_does_not_start_without_keys(sqlite_url: str) -> None:
    done = run_command(sqlite_url, "serve", "--host", "0.0.0.0", "--port", "1")
    assert done.returncode == 2
    assert "whoever reaches 0.0.0.0 could read and write every run" in done.stderr
    assert "token create-key" in done.stderr


def test_a_server_with_keys_says_so_and_lets_nobody_else_in(
    tmp_path: Path, sqlite_url: str
) -> None:
    keys = tmp_path / "keys"
    key, _ = create_key(keys, ("metrics",))
    with running_server(tmp_path, sqlite_url, "--keys", str(keys)) as server:
        refused = server.call("GET", "/metrics")
        assert refused.status == 401
        assert refused.headers["www-authenticate"] == "Bearer"
        bearer = {"authorization": f"Bearer {key}"}
        figures = server.call("GET", "/metrics", headers=bearer)
        assert figures.status == 200
        assert figures.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b"runstream_subscribers 0.0" in figures.body
        assert server.call("GET", "/v1/runs", headers=bearer).status == 403
        # With keys any name will do: there is nothing that a page could do without one.
        named = server.call("GET", "/metrics", headers={**bearer, "host": "runs.example"})
        assert named.status == 200
        assert "(auth: keys)" in server.output


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:4747", "10.0.0.1", "a.localhost.evil"]
)
def test_without_keys_a_page_whose_name_points_here_reads_nothing(
    open_server: ServerProcess, host: str
) -> None:
    answer = open_server.call("GET", "/v1/runs", headers={"host": host})
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    for path in ("/metrics", "/v1/workflows"):
        assert open_server.call("GET", path, headers={"host": host}).status == 403


def test_without_keys_a_page_from_elsewhere_writes_nothing(open_server: ServerProcess) -> None:
    for origin in ("https://evil.example", "null"):
        answer = open_server.call(
            "PUT", "/v1/runs/elsewhere", {"workflow": "w"}, headers={"origin": origin}
        )
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers
    assert open_server.call("GET", "/v1/runs/elsewhere").status == 404


def test_pages_of_a_listed_origin_may_call_and_read_errors_too(open_server: ServerProcess) -> None:
    asks = {
        "origin": APP,
        "access-control-request-method": "PUT",
        "access-control-request-headers": "authorization,content-type,last-event-id",
    }
    preflight = open_server.call("OPTIONS", "/v1/runs/r", headers=asks)
    assert preflight.status == 200
    assert preflight.headers["access-control-allow-origin"] == APP
    assert "access-control-allow-credentials" not in preflight.headers
    put = open_server.call("PUT", "/v1/runs/r", {"workflow": "w"}, headers={"origin": APP})
    assert (put.status, put.headers["access-control-allow-origin"]) == (201, APP)
    missing = open_server.call("GET", "/v1/runs/x", headers={"origin": APP})
    assert (missing.status, missing.headers["access-control-allow-origin"]) == (404, APP)
    other = {**asks, "origin": "https://app.example.evil"}
    refused = open_server.call("OPTIONS", "/v1/runs/r", headers=other)
    assert refused.status == 400
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "https://*.example",
        "app.example",
        "https://app.example/",
        "https://",
        "null",
        "HTTPS://A",
    ],
)
def test_an_origin_is_a_scheme_and_a_host_and_never_a_wildcard(origin: str) -> None:
    with pytest.raises(InvalidInput, match="an origin is like"):
        check_origins((origin,))
    assert check_origins((APP, "http://localhost:3000")) == (APP, "http://localhost:3000")
