"""The routes of runs, asked over a socket without our own client."""

from __future__ import annotations

import secrets
import threading
from typing import Any

import pytest

from server_process import Reply, ServerProcess


@pytest.fixture
def names() -> str:
    """A run id that no other test has."""
    return secrets.token_hex(8)


def put(server: ServerProcess, run_id: str, **body: Any) -> Reply:
    return server.call("PUT", f"/v1/runs/{run_id}", {"workflow": "w", **body})


def post(server: ServerProcess, path: str, body: object) -> Reply:
    return server.call("POST", f"/v1/runs/{path}", body)


def note(server: ServerProcess, run_id: str, count: int = 1) -> None:
    events = [{"kind": "note", "data": {"n": number}} for number in range(count)]
    assert post(server, f"{run_id}/events", {"events": events}).status == 200


def test_a_run_is_created_once_and_then_opened(shared_server: ServerProcess, names: str) -> None:
    first = put(shared_server, names, producer="p")
    again = put(shared_server, names, producer="p")
    assert (first.status, again.status) == (201, 200)
    assert (first.json["created"], again.json["created"]) == (True, False)
    assert (first.json["epoch"], again.json["epoch"]) == (1, 2)
    run = again.json["run"]
    assert (run["workflow"], run["status"], run["first_seq"], run["last_seq"]) == (
        "w",
        "running",
        1,
        0,
    )


def test_opening_without_a_workflow_creates_nothing(
    shared_server: ServerProcess, names: str
) -> None:
    answer = shared_server.call("PUT", f"/v1/runs/{names}", {"producer": "p"})
    assert (answer.status, answer.json["code"]) == (404, "run_not_found")
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_run_that_another_process_holds_cannot_be_claimed(
    shared_server: ServerProcess, names: str
) -> None:
    assert put(shared_server, names, producer="a", lease_s=60).json["run"]["lease"]["owner"] == "a"
    answer = put(shared_server, names, producer="b", lease_s=60)
    assert (answer.status, answer.json["code"]) == (409, "lease_held")


def test_a_lease_is_renewed_and_released_by_its_owner_alone(
    shared_server: ServerProcess, names: str
) -> None:
    epoch = put(shared_server, names, producer="a", lease_s=60).json["epoch"]
    renewal = {"action": "renew", "owner": "a", "epoch": epoch}
    assert post(shared_server, f"{names}/lease", renewal).status == 204
    assert post(shared_server, f"{names}/lease", renewal | {"owner": "b"}).status == 409
    run = shared_server.call("GET", f"/v1/runs/{names}").json
    assert run["lease"]["counter"] == 2
    assert post(shared_server, f"{names}/lease", renewal | {"action": "release"}).status == 204
    assert "lease" not in shared_server.call("GET", f"/v1/runs/{names}").json
    assert post(shared_server, f"{names}/lease", renewal).json["code"] == "lease_lost"


def test_a_lease_that_lapsed_is_expired_once(shared_server: ServerProcess, names: str) -> None:
    lease = put(shared_server, names, producer="a", lease_s=60).json["run"]["lease"]
    seen = {"action": "expire", "lease": lease}
    assert post(shared_server, f"{names}/lease", seen).json["status"] == "lost"
    # Harmless again, and the owner hears of it.
    assert post(shared_server, f"{names}/lease", seen).json["status"] == "lost"
    assert shared_server.call("GET", f"/v1/runs/{names}").json["last_seq"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {"action": "expire"},
        {"action": "expire", "owner": "a", "epoch": 1},
        {"action": "renew"},
        {"action": "renew", "owner": "a"},
        {"action": "steal", "owner": "a", "epoch": 1},
    ],
)
def test_a_lease_action_says_all_that_it_needs(
    shared_server: ServerProcess, body: dict[str, object]
) -> None:
    put(shared_server, "lease-actions")
    assert post(shared_server, "lease-actions/lease", body).status == 400


def test_trimmed_records_are_gone_and_numbers_go_on(
    shared_server: ServerProcess, names: str
) -> None:
    put(shared_server, names)
    note(shared_server, names, 3)
    assert post(shared_server, f"{names}/trim", {"through": 2}).status == 204
    note(shared_server, names)
    run = shared_server.call("GET", f"/v1/runs/{names}").json
    assert (run["first_seq"], run["last_seq"]) == (3, 4)


def test_a_run_that_has_ended_is_removed_with_its_children(
    shared_server: ServerProcess, names: str
) -> None:
    child = f"{names}.child"
    put(shared_server, names, workflow="w")
    put(shared_server, child, workflow="w", parent_run_id=names)
    for run_id, why in ((names, "only an ended run"), (child, "it goes with its root")):
        answer = shared_server.call("DELETE", f"/v1/runs/{run_id}")
        assert (answer.status, answer.json["code"]) == (400, "invalid_input")
        assert why in answer.json["detail"]
    end = {"events": [{"kind": "run.completed"}], "final": True}
    assert post(shared_server, f"{names}/events", end).status == 200
    removed = shared_server.call("DELETE", f"/v1/runs/{names}")
    assert (removed.status, removed.body) == (204, b"")
    for run_id in (names, child):
        for method in ("GET", "DELETE"):
            answer = shared_server.call(method, f"/v1/runs/{run_id}")
            assert (answer.status, answer.json["code"]) == (404, "run_not_found")
    assert put(shared_server, names, workflow="w").status == 201


def test_cancel_and_signals_are_stored_for_the_process_that_runs_it(
    shared_server: ServerProcess, names: str
) -> None:
    put(shared_server, names, producer="a", lease_s=60)
    answer = post(shared_server, f"{names}/signals", {"type": "Answer", "event": {"text": "yes"}})
    assert (answer.status, answer.json["first_seq"]) == (202, 1)
    assert post(shared_server, f"{names}/cancel", {"reason": "enough"}).status == 202
    # The body of a cancel may be left out.
    assert shared_server.call("POST", f"/v1/runs/{names}/cancel").status == 202
    assert shared_server.call("GET", f"/v1/runs/{names}").json["last_seq"] == 3


def test_a_child_run_joins_its_parent(shared_server: ServerProcess, names: str) -> None:
    put(shared_server, names)
    child = put(shared_server, f"{names}.child", parent_run_id=names).json["run"]
    assert (child["parent_run_id"], child["root_run_id"]) == (names, names)


def test_runs_are_listed_newest_first_page_by_page(server: ServerProcess) -> None:
    for number in range(5):
        put(server, f"run-{number}", workflow="even" if number % 2 == 0 else "odd")
    page = server.call("GET", "/v1/runs?limit=2").json
    assert [run["run_id"] for run in page["runs"]] == ["run-4", "run-3"]
    page = server.call("GET", f"/v1/runs?limit=2&before={page['next']}").json
    assert [run["run_id"] for run in page["runs"]] == ["run-2", "run-1"]
    page = server.call("GET", f"/v1/runs?limit=2&before={page['next']}").json
    assert ([run["run_id"] for run in page["runs"]], page["next"]) == (["run-0"], None)
    odd = server.call("GET", "/v1/runs?workflow=odd&status=running").json
    assert [run["run_id"] for run in odd["runs"]] == ["run-3", "run-1"]


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=-1",
        "limit=ten",
        "limit=1&limit=2",
        "status=done",
        "colour=red",
        "workflow=",
        "before=%00",
    ],
)
def test_a_list_refuses_a_query_that_it_does_not_understand(
    shared_server: ServerProcess, query: str
) -> None:
    answer = shared_server.call("GET", f"/v1/runs?{query}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_input")


def test_asking_with_wait_is_answered_when_a_record_comes(
    shared_server: ServerProcess, names: str
) -> None:
    put(shared_server, names)
    answers: list[Reply] = []

    def ask() -> None:
        answers.append(shared_server.call("GET", f"/v1/runs/{names}?after=0&wait=30"))

    asking = threading.Thread(target=ask)
    asking.start()
    note(shared_server, names)
    asking.join(timeout=20)
    assert [answer.json["last_seq"] for answer in answers] == [1]


def test_asking_with_wait_gives_up_in_time(shared_server: ServerProcess, names: str) -> None:
    answer = shared_server.call("GET", f"/v1/runs/{names}?wait=0.05")
    assert (answer.status, answer.json["code"]) == (404, "run_not_found")


@pytest.mark.parametrize("query", ["wait=-1", "wait=nan", "wait=inf", "after=1", "after=x&wait=1"])
def test_a_wait_is_a_time(shared_server: ServerProcess, query: str) -> None:
    assert shared_server.call("GET", f"/v1/runs/x?{query}").status == 400
