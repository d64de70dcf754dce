"""The examples, run as programs; and what each of them left in the stream."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runstream import connect
from runstream.log import RunInfo
from runstream.record import Record

EXAMPLES = Path(__file__).parents[1] / "examples"


class Ran:
    """What an example printed, and its runs in the order of their beginning."""

    def __init__(self, output: str, url: str) -> None:
        self.output = output
        with connect(url) as streams:
            self.runs: list[RunInfo] = streams.list_runs()[::-1]
            self.records: list[list[Record]] = [
                list(streams.subscribe(run.run_id, follow=False)) for run in self.runs
            ]

    def kinds(self, number: int = 0) -> list[str]:
        return [record.kind for record in self.records[number]]


@pytest.fixture
def run_example(tmp_path: Path, request: pytest.FixtureRequest) -> Ran:
    """The example that the test names, after it ran in a process of its own."""
    name: str = request.param
    url = f"sqlite:{tmp_path}/events.db"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RUNSTREAM_")}
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"],
        env={**environment, "RUNSTREAM_URL": url},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Ran(done.stdout, url)


def example(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("run_example", [name], indirect=True, ids=[name])


def test_every_example_of_a_page_names_its_edits_first() -> None:
    pages = [path for path in EXAMPLES.glob("*.py") if path.name.split("_")[0] in PAGES]
    assert len(pages) >= 7
    for path in pages:
        comment = path.read_text().split('"""')[0]
        assert comment.startswith("# The Python of ")
        assert "Edits beside the import line" in comment


PAGES = {"zenml", "mistral", "llamaindex", "blazen", "temporal"}


@example("zenml_streaming")
def test_zenml_s_step_streams_its_phases_and_a_dynamic_pipeline_its_own(run_example: Ran) -> None:
    first, second = run_example.records
    phases = [record for record in first if record.kind == "event"]
    assert [record.data for record in phases] == [
        {"phase": "warmup"},
        *({"i": i, "msg": f"working on item {i}"} for i in range(10)),
        {"phase": "done"},
    ]
    assert {record.step for record in phases} == {"my_streaming_step"}
    assert first[-1].data == {"result": "ok"}
    planning = next(record for record in second if record.kind == "event")
    assert (planning.data, planning.step, planning.step_run_id) == (
        {"phase": "planning"},
        None,
        None,
    )
    tokens = [record for record in second if record.kind == "token"]
    assert {record.correlation_id for record in tokens} == {"gen-42"}
    assert len({record.step_run_id for record in tokens}) == 2
    assert sorted(record.index or 0 for record in tokens) == sorted([*range(35), *range(35)])
    assert second[-1].data == {"result": [True, True]}
    assert "research: 71 records for gen-42" in run_example.output


@example("mistral_token_stream")
def test_mistral_s_tokens_stream_as_a_task_that_grows_by_small_deltas(run_example: Ran) -> None:
    (records,) = run_example.records
    task = [record for record in records if record.kind.startswith("task.")]
    assert task[0].data["state"] == {"tokens": []}
    assert {record.topic for record in task} == {"token-stream"}
    assert {record.step for record in task} == {"chat_activity"}
    assert task[-1].kind == "task.completed"
    assert len(task[-1].data["state"]["tokens"]) == 35
    deltas = [record for record in task if record.kind == "task.progress"]
    assert len(deltas) == 35
    assert max(len(record.raw) for record in deltas) < 120
    assert "Call me Ishmael." in run_example.output
    assert "35 tokens" in run_example.output


@example("mistral_progress")
def test_mistral_s_progress_is_followed_while_it_changes(run_example: Ran) -> None:
    (records,) = run_example.records
    assert records[1].step == "Processing text with explicit control"
    assert run_example.output.splitlines()[0] == "0 of 8"
    assert "8 of 8" in run_example.output
    assert records[-1].data["result"]["token_count"] == 8


@example("llamaindex_three_steps")
def test_llamaindex_s_three_steps_stream_their_progress_in_order(run_example: Ran) -> None:
    (records,) = run_example.records
    progress = [record for record in records if record.kind == "ProgressEvent"]
    assert progress[0].data == {"msg": "Step one is happening"}
    assert progress[-1].data == {"msg": "Step three is happening"}
    assert [record.step for record in progress] == ["step_one", *["step_two"] * 35, "step_three"]
    assert "".join(record.data["msg"] for record in progress[1:-1]).startswith("Call me Ishmael.")
    assert records[0].data["input"] == {"first_input": "Start the workflow."}
    assert run_example.output.endswith("Final result Workflow complete.\n")


@example("llamaindex_termination")
def test_llamaindex_s_endings_are_in_the_stream_and_then_raised(run_example: Ran) -> None:
    assert [run.status for run in run_example.runs] == ["timed_out", "cancelled", "failed"]
    assert run_example.records[0][-1].data == {"timeout": 1.0, "active_steps": ["wait"]}
    assert run_example.records[1][-1].data["active_steps"] == ["wait"]
    assert run_example.kinds(2).count("step.retrying") == 2
    end = run_example.records[2][-1].data
    assert (end["step_name"], end["attempts"]) == ("call", 3)
    assert "Workflow timed out after 1.0s" in run_example.output
    assert "Workflow was cancelled" in run_example.output
    assert "Step 'call' failed after 3 attempts" in run_example.output
    assert "raised: the service is down" in run_example.output


@example("blazen_progress")
def test_blazen_s_free_step_streams_its_progress(run_example: Ran) -> None:
    (records,) = run_example.records
    progress = [record for record in records if record.kind == "ProgressEvent"]
    assert [record.data for record in progress] == [
        {"step": i, "message": f"Processing step {i}"} for i in range(3)
    ]
    assert {record.step for record in progress} == {"process"}
    assert run_example.output.splitlines() == [
        *(f"[ProgressEvent] step={i}" for i in range(3)),
        "{'done': True}",
    ]


@example("temporal_session")
def test_temporal_s_session_is_one_run_and_each_reader_gets_its_own_turn(run_example: Ran) -> None:
    (run,) = run_example.runs
    (records,) = run_example.records
    assert run.run_id == "session-1"
    assert run.status == "waiting"
    kinds = [record.kind for record in records]
    assert kinds.count("run.signal") == kinds.count("run.resumed") == 3
    assert kinds.count("run.waiting") == 4
    events = [record for record in records if record.topic == "events"]
    turns = [
        record.data["data"]["message"] for record in events if "TURN_STARTED" in str(record.data)
    ]
    assert turns == ["How many tracks are there?", "And the longest one?", "Thank you."]
    thought = [record for record in events if record.data["type"] == "THINKING_COMPLETE"]
    assert [record.step for record in thought] == ["model_call"] * 3
    for turn in turns:
        assert f"You said {turn!r}, and that is that." in run_example.output


@example("remote")
def test_a_worker_and_a_follower_outlive_their_server(run_example: Ran) -> None:
    steps = [int(line.split()[1].rstrip(":")) for line in run_example.output.splitlines()]
    assert steps == list(range(1, 31))


@example("fastapi_mounted")
def test_the_server_works_inside_another_app(run_example: Ran) -> None:
    assert [kind for kind in run_example.kinds() if not kind.startswith("run.")] == ["progress"] * 2
    assert run_example.output.count("event: progress") == 2
    assert "event: stream.end" in run_example.output


@example("fastapi_own_route")
def test_a_route_of_ones_own_streams_a_run(run_example: Ran) -> None:
    assert [run.run_id for run in run_example.runs] == ["chat-1"]
    assert run_example.output.count("event: token") == 3
