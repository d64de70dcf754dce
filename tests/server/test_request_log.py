"""What a server says on stderr, and what it never says."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from pathlib import Path

import jwt
import pytest

from asgi_call import call
from runstream.errors import LogUnavailable
from runstream.log import RunInfo
from runstream.logs.memory import MemoryLog
from runstream.server.app import create_app
from runstream.server.keys import create_key
from runstream.server.log_lines import FIELDS, JsonLines, PlainLines
from runstream.server.routes import ROUTES
from runstream.server.run_tokens import RunTokens
from server_process import running_server


def record(message: str, *, error: Exception | None = None, **fields: object) -> logging.LogRecord:
    found = logging.LogRecord("runstream.x", logging.INFO, "f.py", 1, message, None, None)
    found.created = 1_776_249_000.25
    if fields:
        setattr(found, FIELDS, fields)
    if error is not None:
        try:
            raise error
        except Exception:  # noqa: BLE001 - it is ours
            found.exc_info = sys.exc_info()
    return found


def test_a_line_for_people_has_its_fields_behind_the_message() -> None:
    line = PlainLines().format(record("request", method="GET", status=200, path="/v1/runs/a"))
    assert line == (
        "2026-04-15T10:30:00.250000Z INFO runstream.x: request method=GET status=200 path=/v1/runs/a"
    )


def test_a_line_for_programs_is_one_json_object() -> None:
    line = JsonLines().format(record("request", error=ValueError("no\nway"), status=200))
    assert "\n" not in line
    found = json.loads(line)
    assert found["time"] == "2026-04-15T10:30:00.250000Z"
    assert (found["level"], found["logger"], found["status"]) == ("INFO", "runstream.x", 200)
    assert "ValueError: no" in found["traceback"]


@pytest.mark.parametrize(
    "forged", ["/a\n2026-04-15T10:30:00Z INFO all is well", "/a b=c", "\x1b[2J", "\udcff"]
)
def test_no_line_can_be_forged(forged: str) -> None:
    for line in (
        PlainLines().format(record("request", path=forged, status=200)),
        PlainLines().format(record(f"run {forged} was abandoned")),
        JsonLines().format(record(f"run {forged}", path=forged)),
    ):
        assert line.isprintable()
    plain = PlainLines().format(record("request", path=forged, status=200))
    assert plain.endswith(" status=200")
    assert plain.count(" b=c") == 0 or '"' in plain


async def test_each_request_is_one_line_at_info(caplog: pytest.LogCaptureFixture) -> None:
    app = create_app(MemoryLog())
    with caplog.at_level(logging.INFO, "runstream.requests"):
        await call(app, "GET", "/v1/runs/nightly", query="access_token=secret")
    (found,) = [one for one in caplog.records if one.name == "runstream.requests"]
    fields = getattr(found, FIELDS)
    assert fields["route"] == "/v1/runs/{run_id}"
    assert fields["path"] == "/v1/runs/nightly"
    assert (fields["method"], fields["status"], fields["who"]) == ("GET", 404, "anyone")
    assert fields["seconds"] >= 0
    assert "secret" not in str(fields)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "runstream.requests"):
        await call(app, "GET", "/v1/runs/nightly")
    assert not caplog.records


@pytest.mark.parametrize("form", [(), ("--log-json",)])
def test_a_server_that_tells_everything_tells_no_secret(
    tmp_path: Path, sqlite_url: str, form: tuple[str, ...]
) -> None:
    keys = tmp_path / "keys"
    key, entry = create_key(keys, ("admin",))
    with running_server(
        tmp_path, sqlite_url, "--keys", str(keys), "--log-level", "debug", *form
    ) as server:
        bearer = {"authorization": f"Bearer {key}"}
        opened = server.call("PUT", "/v1/runs/r", {"workflow": "w"}, headers=bearer)
        assert opened.status == 201, opened
        minted = server.call("POST", "/v1/runs/r/tokens", {}, headers=bearer).json["token"]
        ended = b'{"events": [{"kind": "run.completed", "data": {}}], "final": true}'
        assert server.call("POST", "/v1/runs/r/events", ended, headers=bearer).status == 200
        wrong = key[:-4] + "AAAA"
        for path, headers, status in (
            (f"/v1/runs/r?access_token={minted}", {}, 200),
            (f"/v1/runs/r/events?access_token={minted}", {"accept": "text/event-stream"}, 200),
            (f"/v1/runs/r?access_token={key}", {}, 401),
            (f"/v1/runs/other?access_token={minted}", {}, 403),
            ("/v1/runs/r", {"authorization": f"Bearer {wrong}"}, 401),
            (f"/v1/runs/{key}", {"authorization": f"Basic {key}"}, 401),
        ):
            assert server.call("GET", path, headers=headers).status == status, path
        server.stop()
        told = server.output
    assert "route=/v1/runs/{run_id}" in told or '"route":"/v1/runs/{run_id}"' in told
    assert f"key:{entry.id}" in told
    for secret in (key, key.split("_", 2)[2], wrong, minted, entry.sha256):
        assert secret not in told
    if form:
        requests = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
        assert {one["logger"] for one in requests} >= {"runstream.requests"}


def test_no_refusal_of_any_route_puts_a_secret_into_the_log(
    tmp_path: Path, sqlite_url: str
) -> None:
    keys, jwt_secret = tmp_path / "keys", tmp_path / "jwt-secret"
    jwt_secret.write_text("the secret of an identity provider, for tests only")
    key, entry = create_key(keys, ("admin",))
    claims = {"exp": time.time() + 600, "scope": "admin", "sub": "somebody"}
    token = jwt.encode(claims, jwt_secret.read_text(), "HS256")
    minted, _ = RunTokens.with_new_secret().mint("r", 600, by="somebody")
    options = ("--keys", str(keys), "--jwt-secret", str(jwt_secret), "--log-level", "debug")
    asked = 0
    with running_server(tmp_path, sqlite_url, *options) as server:
        for route in ROUTES:
            for secret in (key, token, minted):
                path = re.sub(r"\{\w+\}", "r", route.pattern)
                misplaced = re.sub(r"\{\w+\}", secret, route.pattern)
                body = {"workflow": secret, "type": secret, "reason": secret}
                for address, headers in (
                    (path, {"authorization": f"Bearer {secret}x"}),
                    (path, {"authorization": f"Basic {secret}"}),
                    (path, {"authorization": secret, "cookie": secret, "x-api-key": secret}),
                    (f"{path}?access_token={secret}x", {}),
                    (f"{path}?token={secret}&{secret}=1", {"authorization": f"Bearer {token}"}),
                    (misplaced, {}),
                    (f"{misplaced}/{secret}", {"authorization": f"Bearer {key}"}),
                    (misplaced, {"authorization": f"Bearer {key}", "last-event-id": secret}),
                ):
                    sent = None if route.method == "GET" else body
                    answer = server.call(route.method, address, sent, headers=headers)
                    assert answer.status < 500, answer
                    asked += 1
        server.stop()
        told = server.output
    assert told.count("runstream.requests") >= asked > 300
    assert f"key:{entry.id}" in told
    for secret in (key, token, minted):
        # Not even a part of them that would help to guess the rest.
        for part in [key.split("_", 2)[2]] if secret is key else secret.split(".")[-2:]:
            assert part not in told.replace(f"key:{entry.id}", "")


async def test_callers_do_not_hear_where_the_log_lies_and_the_operator_does(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(MemoryLog):
        async def info(self, run_id: str) -> RunInfo:
            raise LogUnavailable(f"/srv/secret-place/events.db has no space left ({run_id})")

    app = create_app(Broken())
    for accept in ("application/json", "text/event-stream"):
        for path in ("/v1/runs/r", "/v1/runs/r/events"):
            answer = await call(app, "GET", path, {"accept": accept})
            assert (answer.status, answer.json["code"]) == (503, "log_unavailable")
            assert b"secret-place" not in answer.body
            assert "try again" in answer.json["detail"]
    told = [record for record in caplog.records if "secret-place" in record.getMessage()]
    assert len(told) == 1
    await app.stop()
