"""Workflows that callers start at a server."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from pathlib import Path

import pytest

from command_process import run_command
from programs import wait_until
from runstream import connect
from server_process import Reply, ServerProcess, running_server
from services.engine import answers

FLOWS = '''
import asyncio
from pathlib import Path

from runstream import StartEvent, StopEvent, Workflow, pipeline, publish, step


class Ask(StartEvent):
    """What is asked."""

    topic: str
    times: int = 1


class Report(Workflow):
    """Writes a report."""

    @step
    async def write(self, ev: Ask) -> StopEvent:
        for number in range(ev.times):
            publish({"text": f"{ev.topic} {number}"}, kind="token")
        return StopEvent(result=ev.topic)


@pipeline
async def wait_for(path: str) -> str:
    """Waits for a file."""
    publish({}, kind="waiting")
    while not Path(path).exists():
        await asyncio.sleep(0.005)
    return path
'''


@pytest.fixture
def flows(tmp_path: Path, sqlite_url: str) -> Generator[ServerProcess]:
    """A server that starts the workflows above."""
    (tmp_path / "flows.py").write_text(FLOWS)
    targets = [f"{tmp_path}/flows.py:{name}" for name in ("Report", "wait_for")]
    with running_server(tmp_path, sqlite_url, *targets) as running:
        yield running


def start(server: ServerProcess, name: str, **body: object) -> Reply:
    return server.call("POST", f"/v1/workflows/{name}/runs", body)


def kinds(server: ServerProcess, run_id: str) -> list[str]:
    """To the end of the run, past the server."""
    with connect(server.log_url) as streams:
        return [record.kind for record in streams.subscribe(run_id)]


def test_workflows_are_listed_with_the_schema_of_their_input(flows: ServerProcess) -> None:
    report, wait_for = flows.call("GET", "/v1/workflows").json["workflows"]
    assert (report["name"], report["description"]) == ("Report", "Writes a report.")
    assert report["input_schema"]["required"] == ["topic"]
    assert report["input_schema"]["properties"]["times"]["default"] == 1
    assert wait_for["input_schema"]["properties"] == {"path": {"title": "Path", "type": "string"}}


def test_a_run_goes_on_after_the_request_that_began_it(flows: ServerProcess) -> None:
    answer = start(flows, "Report", input={"topic": "rain", "times": 3}, run_id="mine")
    assert (answer.status, answer.headers["location"]) == (201, "/v1/runs/mine")
    assert answer.json["workflow"] == "Report"
    found = kinds(flows, "mine")
    assert (found.count("token"), found[0], found[-1]) == (3, "run.started", "run.completed")
    assert flows.call("GET", "/v1/runs/mine").json["status"] == "completed"


def test_a_run_without_an_id_of_its_own_gets_one(flows: ServerProcess) -> None:
    answers = [start(flows, "Report", input={"topic": "rain"}) for _ in range(2)]
    ids = {answer.json["run_id"] for answer in answers}
    assert len(ids) == 2
    assert all(kinds(flows, run_id)[-1] == "run.completed" for run_id in ids)


@pytest.mark.parametrize(
    ("name", "body", "status", "code"),
    [
        ("Report", {}, 400, "invalid_input"),
        ("Report", {"input": {"topic": "rain", "times": "many"}}, 400, "invalid_input"),
        ("Report", {"input": {"topic": "rain"}, "run_id": "not an id"}, 400, "invalid_input"),
        ("Report", {"input": {"topic": "rain"}, "colour": "red"}, 400, "invalid_input"),
        ("wait_for", {"input": {"place": "x"}}, 400, "invalid_input"),
        ("Unknown", {}, 404, "workflow_not_found"),
    ],
)
def test_what_cannot_be_started_is_refused(
    flows: ServerProcess, name: str, body: dict[str, object], status: int, code: str
) -> None:
    answer = start(flows, name, **body)
    assert (answer.status, answer.json["code"]) == (status, code)
    assert flows.call("GET", "/v1/runs").json["runs"] == []


def test_a_run_that_is_there_already_is_not_started_again(
    flows: ServerProcess, tmp_path: Path
) -> None:
    given = {"input": {"path": str(tmp_path / "go")}, "run_id": "one"}
    assert start(flows, "wait_for", **given).status == 201
    assert start(flows, "wait_for", **given).json["code"] == "lease_held"
    (tmp_path / "go").touch()
    assert kinds(flows, "one")[-1] == "run.completed"
    assert start(flows, "wait_for", **given).json["code"] == "run_ended"


def test_a_run_is_cancelled_over_http(flows: ServerProcess, tmp_path: Path) -> None:
    start(flows, "wait_for", input={"path": str(tmp_path / "never")}, run_id="one")
    assert flows.call("POST", "/v1/runs/one/cancel", {"reason": "enough"}).status == 202
    assert kinds(flows, "one")[-1] == "run.cancelled"


def test_a_server_that_stops_lets_runs_finish(flows: ServerProcess, tmp_path: Path) -> None:
    start(flows, "wait_for", input={"path": str(tmp_path / "go")}, run_id="one")
    os.kill(flows.pid, signal.SIGTERM)
    wait_until(lambda: not answers(flows.port), "it takes no more connections")
    (tmp_path / "go").touch()
    flows.stop()
    assert kinds(flows, "one")[-1] == "run.completed"


def test_a_server_that_stops_cancels_runs_that_do_not_finish(
    flows: ServerProcess, tmp_path: Path
) -> None:
    start(flows, "wait_for", input={"path": str(tmp_path / "never")}, run_id="one")
    flows.stop()
    with connect(flows.log_url) as streams:
        end = list(streams.subscribe("one"))[-1]
    assert (end.kind, end.data["reason"]) == ("run.cancelled", "the server that ran it is stopping")


def test_two_workflows_of_one_name_are_refused(tmp_path: Path, sqlite_url: str) -> None:
    (tmp_path / "a.py").write_text(FLOWS)
    (tmp_path / "b.py").write_text(FLOWS)
    ended = run_command(
        sqlite_url, "serve", f"{tmp_path}/a.py:Report", f"{tmp_path}/b.py:Report", "--port", "1"
    )
    assert ended.returncode == 2
    assert "two workflows are called 'Report'" in ended.stderr
