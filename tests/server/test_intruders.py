"""Every route against everyone who may not use it: refused, and nothing is told or even looked up.

The cases come from the table of routes, so that a new route is attacked from its first day.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from asgi_call import Answer, call
from runstream.logs.memory import MemoryLog
from runstream.record import make_draft
from runstream.server import stream_follower
from runstream.server.access import PERMISSIONS, Permission
from runstream.server.app import App, create_app
from runstream.server.credentials import Credentials, choose_access
from runstream.server.keys import create_key, revoke_key
from runstream.server.route import Route
from runstream.server.routes import ROUTES
from runstream.server.run_tokens import RunTokens, read_or_make_secret

GUARDED = [route for route in ROUTES if route.permission is not None]
JWT_SECRET = "the secret of an identity provider, for tests only"
VERBS = (
    *("open", "append", "read", "wait", "info", "renew", "release", "expire", "trim", "list"),
    *("retain", "retained", "remove"),
)


class WatchedLog(MemoryLog):
    """A memory log that tells which of its verbs requests have used; background work has other tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.used: list[str] = []
        self.asking: object = None

    def __getattribute__(self, name: str) -> Any:
        if name in VERBS and asyncio.current_task() is self.asking:
            object.__getattribute__(self, "used").append(name)
        return super().__getattribute__(name)


class Place:
    """A server with a run `mine-1` and a run `theirs-1`, both ended; `theirs-2` is not there."""

    def __init__(self, folder: Path) -> None:
        self.log = WatchedLog()
        self.keys = folder / "keys"
        self.secret = folder / "run-token-secret"
        jwt_secret = folder / "jwt-secret"
        jwt_secret.write_text(JWT_SECRET)
        read_or_make_secret(self.secret)
        self.key("admin")  # so that there is a file
        self.app: App = create_app(
            self.log,
            access=choose_access(
                "0.0.0.0",
                Credentials(
                    keys_file=self.keys,
                    jwt_secret_file=jwt_secret,
                    run_token_secret_file=self.secret,
                ),
            ),
        )

    def key(self, *scopes: Permission, runs: tuple[str, ...] | None = None) -> str:
        return create_key(self.keys, scopes, runs=runs)[0]

    def restart(self) -> None:
        """Read the keys as they are now."""
        self.app = create_app(
            self.log,
            access=choose_access(
                "0.0.0.0",
                Credentials(
                    keys_file=self.keys,
                    jwt_secret_file=self.keys.with_name("jwt-secret"),
                    run_token_secret_file=self.secret,
                ),
            ),
        )

    async def fill(self) -> None:
        for run_id in ("mine-1", "theirs-1"):
            await self.log.open(run_id, producer=None, workflow="secret-workflow")
            await self.log.append(
                run_id, [make_draft(run_id, "run.completed", {"result": "secret"})], final=True
            )
        self.log.used.clear()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncGenerator[Place]:
    made = Place(tmp_path)
    await made.fill()
    yield made
    await made.app.stop()


def name(route: Route) -> str:
    return f"{route.method} {route.pattern}"


def path_of(route: Route, run_id: str) -> str:
    path = route.pattern.replace("{run_id}", run_id).replace("{workflow}", "secret-workflow")
    assert "{" not in path, "a new variable part: say here what an intruder puts there"
    return path


async def ask(
    place: Place, route: Route, run_id: str, token: str | None, query: str = ""
) -> Answer:
    """The request as an intruder sends it."""
    headers = {"accept": "application/json", "content-type": "application/json"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    place.log.used.clear()
    place.log.asking = asyncio.current_task()
    return await call(place.app, route.method, path_of(route, run_id), headers, b"{}", query=query)


def bearers(place: Place) -> dict[str, str | None]:
    """What does not tell who somebody is: no credential, or one that is wrong or over."""
    good = place.key("admin")
    revoked, entry = create_key(place.keys, ("admin",))
    expired, _ = create_key(place.keys, ("admin",), expires=time.time() - 1)
    revoke_key(place.keys, entry.id)
    place.restart()
    tokens = RunTokens(place.secret.read_bytes().rstrip())
    claims = {"exp": time.time() + 60, "scope": "admin"}
    return {
        "nothing": None,
        "empty": "",
        "rubbish": "rubbish",
        "another secret": good[:-4] + "AAAA",
        "an id alone": "_".join(good.split("_")[:2]),
        "revoked": revoked,
        "expired": expired,
        "run token of another secret": RunTokens.with_new_secret().mint("mine-1", 60, by="x")[0],
        "run token that is over": tokens.mint("theirs-1", 1e-9, by="x")[0],
        "jwt of another secret": jwt.encode(claims, JWT_SECRET + "x", "HS256"),
        "jwt that is over": jwt.encode({**claims, "exp": time.time() - 3600}, JWT_SECRET, "HS256"),
        "jwt without an algorithm": jwt.encode(claims, "", "none"),
        "jwt without an end": jwt.encode({"scope": "admin"}, JWT_SECRET, "HS256"),
    }


def narrow(place: Place, route: Route) -> dict[str, str]:
    """Who is known, but may not do this, or not with this run."""
    tokens = RunTokens(place.secret.read_bytes().rstrip())
    others: tuple[Permission, ...] = tuple(
        permission for permission in PERMISSIONS if permission not in {route.permission, "admin"}
    )
    found = {
        "every other permission": place.key(*others),
        "none that there is": jwt.encode(
            {"exp": time.time() + 60, "scope": "openid"}, JWT_SECRET, "HS256"
        ),
    }
    if "{run_id}" in route.pattern:
        found |= {
            "another run": place.key(*PERMISSIONS, runs=("mine-1",)),
            "another prefix": place.key(*PERMISSIONS, runs=("mine-*",)),
            "longer prefix": place.key(*PERMISSIONS, runs=("theirs-1x*", "theirs-22*")),
            "no run at all": place.key(*PERMISSIONS, runs=()),
            "jwt for another run": jwt.encode(
                {"exp": time.time() + 60, "scope": "admin", "runs": ["mine-*"]}, JWT_SECRET, "HS256"
            ),
            "run token of another run": tokens.mint("mine-1", 60, by="x")[0],
        }
    elif route.permission != "runs:read":
        found["everything, of one run"] = place.key(*PERMISSIONS, runs=("theirs-1",))
    if route.permission != "runs:read":
        found["run token"] = tokens.mint("theirs-1", 60, by="x")[0]
    place.restart()
    return found


def test_there_are_routes_to_attack_and_those_that_are_open_are_meant_to_be() -> None:
    assert len(GUARDED) >= 11
    open_to_all = {name(route) for route in ROUTES if route.permission is None}
    assert open_to_all <= {
        "GET /",
        "GET /assets/{asset}",
        "GET /healthz",
        "GET /healthz/live",
        "GET /openapi.json",
    }


def test_only_the_list_of_runs_is_open_to_who_may_read_some_of_them() -> None:
    # It leaves out the others. Whatever else tells of all runs asks for a permission of its own.
    at_large = {
        name(route)
        for route in GUARDED
        if route.permission == "runs:read" and "{run_id}" not in route.pattern
    }
    assert at_large == {"GET /v1/runs"}


@pytest.mark.parametrize("route", GUARDED, ids=name)
async def test_whoever_is_not_known_gets_401_and_learns_nothing(place: Place, route: Route) -> None:
    for who, token in bearers(place).items():
        there = await ask(place, route, "theirs-1", token)
        assert (there.status, there.json["code"]) == (401, "unauthorized"), who
        assert there.headers["www-authenticate"] == "Bearer", who
        assert not any(word in there.body for word in (b"secret", b"theirs")), who
        assert there == await ask(place, route, "theirs-2", token), who
        assert there == await ask(place, route, "..%2f", token), who
        assert place.log.used == [], who


@pytest.mark.parametrize("route", GUARDED, ids=name)
async def test_whoever_may_not_gets_403_and_learns_nothing(place: Place, route: Route) -> None:
    for who, token in narrow(place, route).items():
        there = await ask(place, route, "theirs-1", token)
        assert (there.status, there.json["code"]) == (403, "forbidden"), who
        assert not any(word in there.body for word in (b"secret", b"theirs")), who
        assert there == await ask(place, route, "theirs-2", token), who
        assert place.log.used == [], who


@pytest.mark.parametrize("route", GUARDED, ids=name)
async def test_a_key_in_the_address_is_refused_and_not_repeated(place: Place, route: Route) -> None:
    key = place.key("admin")
    place.restart()
    answer = await ask(place, route, "mine-1", None, query=f"access_token={key}")
    assert answer.status == 401
    assert key.encode() not in answer.body
    assert place.log.used == []


@pytest.mark.parametrize("route", GUARDED, ids=name)
async def test_whoever_may_is_let_in(place: Place, route: Route) -> None:
    assert route.permission is not None
    runs = ("mine-*",) if "{run_id}" in route.pattern else None
    key = place.key(route.permission, runs=runs)
    place.restart()
    answer = await ask(place, route, "mine-1", key)
    assert answer.status not in {401, 403}, answer


@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
async def test_streams_are_refused_before_they_begin(place: Place, accept: str) -> None:
    key = place.key("runs:read", runs=("mine-*",))
    place.restart()
    answers = [
        await call(
            place.app,
            "GET",
            f"/v1/runs/{run_id}/events",
            {"accept": accept, "authorization": f"Bearer {key}"},
        )
        for run_id in ("theirs-1", "theirs-2")
    ]
    assert answers[0] == answers[1]
    assert answers[0].status == 403


# --- runs that stand elsewhere than in the path ----------------------------------------------------


async def request(
    place: Place, key: str, method: str, path: str, body: object = None, query: str = ""
) -> Answer:
    headers = {"accept": "application/json", "content-type": "application/json"}
    headers["authorization"] = f"Bearer {key}"
    sent = b"" if body is None else json.dumps(body).encode()
    place.log.used.clear()
    place.log.asking = asyncio.current_task()
    return await call(place.app, method, path, headers, sent, query=query)


async def test_lists_show_only_what_may_be_read(place: Place) -> None:
    key = place.key("runs:read", runs=("mine-*",))
    nothing = place.key("runs:read", runs=())
    place.restart()
    for query in ("", "limit=1", "workflow=secret-workflow", "status=completed"):
        answer = await request(place, key, "GET", "/v1/runs", query=query)
        assert [run["run_id"] for run in answer.json["runs"]] == ["mine-1"], query
        assert b"theirs" not in answer.body
        answer = await request(place, nothing, "GET", "/v1/runs", query=query)
        assert answer.json == {"runs": [], "next": None}
    pages = [
        await request(place, key, "GET", "/v1/runs", query=f"before={run_id}")
        for run_id in ("theirs-1", "theirs-2")
    ]
    assert pages[0] == pages[1]
    assert pages[0].status == 403


async def test_a_request_that_is_let_in_shows_in_what_the_log_was_asked(place: Place) -> None:
    (route,) = [one for one in GUARDED if name(one) == "GET /v1/runs/{run_id}"]
    key = place.key("runs:read")
    place.restart()
    assert (await ask(place, route, "mine-1", key)).status == 200
    assert place.log.used == ["info"]


async def test_a_child_cannot_be_put_into_a_run_of_others(place: Place) -> None:
    key = place.key("runs:write", runs=("mine-*",))
    place.restart()
    answers = [
        await request(
            place, key, "PUT", "/v1/runs/mine-2", {"workflow": "w", "parent_run_id": parent}
        )
        for parent in ("theirs-1", "theirs-2")
    ]
    assert answers[0] == answers[1]
    assert answers[0].status == 403
    assert place.log.used == []


async def test_a_workflow_cannot_be_started_as_a_run_of_others(place: Place) -> None:
    key = place.key("runs:start", "runs:read", runs=("mine-*",))
    place.restart()
    answers = [
        await request(place, key, "POST", "/v1/workflows/w/runs", {"run_id": run_id})
        for run_id in ("theirs-1", "theirs-2")
    ]
    assert answers[0] == answers[1]
    assert answers[0].status == 403
    assert place.log.used == []
    mine = await request(place, key, "POST", "/v1/workflows/w/runs", {"run_id": "mine-1"})
    assert mine.json["code"] == "workflow_not_found"


async def with_family(place: Place) -> str:
    """`root` with the children `mine-child` and `sister`; a key for `mine-*` alone."""
    await place.log.open("root", producer=None, workflow="w")
    for child in ("mine-child", "sister"):
        await place.log.open(child, producer=None, workflow="w", parent_run_id="root")
    await place.log.append("root", [make_draft("root", "note", {"secret": 1})])
    await place.log.append("mine-child", [make_draft("mine-child", "note", {"n": 1})])
    key = place.key("runs:write", "runs:read", runs=("mine-*",))
    place.restart()
    return key


@pytest.mark.parametrize("run_id", ["root", "sister", "theirs-1", "theirs-2"])
@pytest.mark.parametrize("final", [False, True])
async def test_who_may_write_to_a_child_cannot_write_to_its_family(
    place: Place, run_id: str, final: bool
) -> None:
    key = await with_family(place)
    before = (await place.log.info("root")).last_seq
    kind = "run.completed" if final else "note"
    answer = await request(
        place,
        key,
        "POST",
        "/v1/runs/mine-child/events",
        {"events": [{"kind": "note"}, {"kind": kind, "run_id": run_id}], "final": final},
    )
    assert answer.status == 403, answer
    assert (await place.log.info("root")).last_seq == before


async def test_who_may_write_to_a_root_writes_for_its_children_too(place: Place) -> None:
    await with_family(place)
    key = place.key("runs:write", runs=("root",))
    place.restart()
    events = {"events": [{"kind": "note", "run_id": "sister"}]}
    answer = await request(place, key, "POST", "/v1/runs/root/events", events)
    assert answer.status == 200
    answer = await request(
        place,
        key,
        "POST",
        "/v1/runs/root/events",
        {"events": [{"kind": "n", "run_id": "theirs-1"}]},
    )
    assert answer.status == 400


@pytest.mark.parametrize("query", ["follow=false", "follow=false&stream=true", "last=100"])
async def test_who_may_read_a_child_does_not_read_its_root(place: Place, query: str) -> None:
    key = await with_family(place)
    answer = await request(place, key, "GET", "/v1/runs/mine-child/events", query=query)
    assert b"secret" not in answer.body
    if answer.status == 200:
        records = answer.json["records"]
        assert [record["run_id"] for record in records] == ["mine-child"]


# --- streams that are open when a credential ends ----------------------------------------------------


async def follow(place: Place, token: str, on_record: Callable[[], None]) -> Answer:
    return await call(
        place.app,
        "GET",
        "/v1/runs/live/events",
        {"accept": "text/event-stream"},
        query=f"access_token={token}",
        on_body=on_record,
    )


async def test_a_stream_ends_with_its_run_token_and_says_why(place: Place) -> None:
    await place.log.open("live", producer=None, workflow="w")
    await place.log.append("live", [make_draft("live", "note", {"n": 1})])
    tokens = RunTokens(place.secret.read_bytes().rstrip())
    token, _ = tokens.mint("live", 1.0, by="x")
    begun = asyncio.Event()
    async with asyncio.timeout(60):
        answer = await follow(place, token, begun.set)
    assert begun.is_set()
    assert answer.status == 200
    assert b'"n":1' in answer.body
    last = answer.body.rstrip().rpartition(b"\n\n")[2]
    assert b"event: stream.error" in last
    assert b"unauthorized" in last
    assert token.encode() not in answer.body
    assert (await follow(place, token, begun.set)).status == 401


async def test_a_stream_ends_when_the_key_that_its_token_came_from_is_withdrawn(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_follower, "VALID_S", 0.0)  # instead of some seconds
    await place.log.open("live", producer=None, workflow="w")
    await place.log.append("live", [make_draft("live", "note", {"n": 1})])
    key, entry = create_key(place.keys, ("runs:read",))
    place.restart()
    minted = await request(place, key, "POST", "/v1/runs/live/tokens", {"ttl_s": 600})
    assert minted.status == 201
    assert minted.headers["cache-control"] == "no-store"
    async with asyncio.timeout(60):
        answer = await follow(
            place,
            minted.json["token"],
            lambda: (
                revoke_key(place.keys, entry.id) if entry.id in place.keys.read_text() else None
            ),
        )
    assert b"event: stream.error" in answer.body.rstrip().rpartition(b"\n\n")[2]
