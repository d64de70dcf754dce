"""Numbers and times beyond all use, to a server over each log: refused or harmless, never a fault."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from runstream.run import new_run_id
from server_process import ServerProcess, running_server

# Whole numbers that a log's engine, JSON or a float cannot hold.
NUMBERS = (2**53, 2**63 - 1, 2**63, 2**64, 10**30, -1, -(2**63), -(10**30))


@pytest.fixture(params=["sqlite", "redis", "postgres", "nats"], scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    url = f"sqlite:{folder}/events.db"
    if request.param != "sqlite":
        url = request.getfixturevalue(f"{request.param}_url")
    with running_server(folder, url) as running:
        yield running
        assert "Traceback" not in running.output


def bodies(number: int) -> dict[str, Any]:
    lease = {"owner": "p", "epoch": number, "counter": 1, "lease_s": 1.0, "grace_s": 0.0}
    event = {"kind": "note"}
    return {
        "trim": {"through": number},
        "lease": {"action": "renew", "owner": "p", "epoch": number},
        "lease#release": {"action": "release", "owner": "p", "epoch": number},
        "lease#expire": {"action": "expire", "lease": lease},
        "lease#counter": {"action": "expire", "lease": {**lease, "epoch": 1, "counter": number}},
        "events#epoch": {"events": [event], "producer": {"id": "p", "epoch": number, "number": 1}},
        "events#number": {"events": [event], "producer": {"id": "q", "epoch": 0, "number": number}},
        "events#index": {"events": [{**event, "index": number}]},
        "events#attempt": {"events": [{**event, "attempt": number}]},
    }


@pytest.mark.parametrize("number", NUMBERS)
def test_a_whole_number_that_is_too_large_or_too_small_is_no_fault(
    server: ServerProcess, number: int
) -> None:
    run_id = new_run_id()
    opened = server.call("PUT", f"/v1/runs/{run_id}", {"workflow": "w", "producer": "p"})
    assert opened.status == 201
    for name, body in bodies(number).items():
        answer = server.call("POST", f"/v1/runs/{run_id}/{name.partition('#')[0]}", body)
        assert answer.status < 500, (name, answer)
    for query in (f"after={number}&wait=0.01", f"from_seq={number}", f"last={number}"):
        path = f"/v1/runs/{run_id}" + ("" if "wait" in query else "/events")
        answer = server.call("GET", f"{path}?{query}", headers={"accept": "application/json"})
        assert answer.status < 500, (query, answer)
    for name in ("records", "size_bytes"):
        asked = {"retention": {name: number}}
        answer = server.call("PUT", f"/v1/runs/{run_id}", asked)
        assert answer.status == 400, (name, answer)
    ended = {"events": [{"kind": "run.completed"}], "final": True}
    producer = {"id": "p", "epoch": 1, "number": 1}
    answer = server.call("POST", f"/v1/runs/{run_id}/events", {**ended, "producer": producer})
    assert answer.status == 200, answer


TIMES = (
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "1969-12-31T23:59:59.5Z",
    "9999-12-31T23:59:59.999999Z",
    "9999-12-31T23:59:59.999999-14:00",
)


@pytest.mark.parametrize("time", TIMES)
def test_a_record_of_any_time_can_be_read_again(server: ServerProcess, time: str) -> None:
    run_id = new_run_id()
    server.call("PUT", f"/v1/runs/{run_id}", {"workflow": "w"})
    for kind in ("note", "run.completed"):
        body = {"events": [{"kind": kind, "time": time}], "final": kind != "note"}
        answer = server.call("POST", f"/v1/runs/{run_id}/events", body)
        assert answer.status == 200, answer
    page = server.call("GET", f"/v1/runs/{run_id}/events", headers={"accept": "application/json"})
    assert [record["seq"] for record in page.json["records"]] == [1, 2]
    assert server.call("GET", f"/v1/runs/{run_id}").json["ended"]
    assert run_id in {run["run_id"] for run in server.call("GET", "/v1/runs").json["runs"]}


def test_limits_for_ever_are_refused_and_a_lease_for_ever_is_harmless(
    server: ServerProcess,
) -> None:
    for name in ("age", "after_end"):
        asked: dict[str, object] = {"workflow": "w", "retention": {name: 1e308}}
        assert server.call("PUT", f"/v1/runs/{new_run_id()}", asked).status == 400
    asked = {"workflow": "w", "producer": "p", "lease_s": 1e308, "grace_s": 1e308}
    path = f"/v1/runs/{new_run_id()}"
    assert server.call("PUT", path, asked).status == 201
    assert server.call("GET", path).json["lease"]["lease_s"] == 1e308
