"""`runstream run`, in real processes and terminals, on workflows that are written to files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from command_process import (
    RUNSTREAM,
    environment,
    run_command,
    run_in_terminal,
)
from flow_file import envelopes, flow, read, run_fed, status_of

__all__ = ["flow"]

# --- what it runs --------------------------------------------------------------------------------


def test_a_class_runs_and_its_records_are_lines_like_those_of_tail(
    sqlite_url: str, flow: str
) -> None:
    result = run_fed(sqlite_url, f"{flow}:Report", "--run-id", "r1")
    assert result.returncode == 0
    assert not result.stderr
    tail = run_command(sqlite_url, "tail", "r1").stdout
    # The columns of lines that come live widen later; what they say is the same.
    said = [line.split() for line in result.stdout.splitlines()]
    assert said[: len(tail.splitlines())] == [line.split() for line in tail.splitlines()]


def test_the_result_comes_last_as_json_that_people_can_read(sqlite_url: str, flow: str) -> None:
    result = run_fed(sqlite_url, f"{flow}:Report", "--input", '{"topic": "snow", "words": 1}')
    _, _, printed = result.stdout.partition("\n{")
    assert json.loads("{" + printed) == {"text": "snow", "lines": ["a" * 40, "b" * 40]}
    assert '\n  "text": "snow",\n' in printed


def test_an_instance_or_a_pipeline_runs_too(sqlite_url: str, flow: str) -> None:
    assert run_fed(sqlite_url, f"{flow}:ready").returncode == 0
    result = run_fed(sqlite_url, f"{flow}:doubled", "--input", '{"n": 4, "url": "mine"}')
    assert result.stdout.splitlines()[-1] == '{"n": 8, "url": "mine"}'
    assert "step.completed" in result.stdout


def test_a_name_may_be_left_out_where_there_is_one_and_its_folder_can_be_imported(
    sqlite_url: str, flow: str
) -> None:
    alone = flow.replace("flow.py", "alone.py")
    assert run_fed(sqlite_url, alone).stdout.splitlines()[-1] == '["beside", "it"]'


def test_a_module_of_this_folder_runs(sqlite_url: str, flow: str) -> None:
    result = subprocess.run(
        [*RUNSTREAM, "run", "alone:only"],
        cwd=Path(flow).parent,
        env=environment(sqlite_url),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.stdout.splitlines()[-1] == '["beside", "it"]'


def test_the_input_may_be_a_file(sqlite_url: str, flow: str, tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text('{"n": 21}')
    result = run_fed(sqlite_url, f"{flow}:doubled", "--input", f"@{tmp_path}/in.json")
    assert '"n": 42' in result.stdout


def test_with_json_a_line_is_an_envelope_and_prints_go_to_stderr(
    sqlite_url: str, flow: str
) -> None:
    result = run_fed(sqlite_url, f"{flow}:doubled", "--input", '{"n": 1}', "--json")
    first, *_, last = envelopes(result.stdout)
    assert (first["seq"], first["kind"]) == (1, "run.started")
    assert last["data"] == {"result": {"n": 2, "url": "none"}}
    assert result.stderr == "printed by the pipeline\n"


# --- questions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Ask", "outer"])
def test_lines_of_the_standard_input_answer_questions_in_turn(
    sqlite_url: str, flow: str, name: str
) -> None:
    result = run_fed(sqlite_url, f"{flow}:{name}", fed="Ann\nblue\nunread\n")
    assert result.returncode == 0
    assert result.stdout.splitlines()[-1] == '["Ann", "blue"]'


def test_an_answer_is_of_the_class_that_a_step_accepts(sqlite_url: str, flow: str) -> None:
    result = run_fed(sqlite_url, f"{flow}:Approve", fed="yes")
    assert result.stdout.splitlines()[-1] == '"said yes"'


def test_where_the_input_ends_before_the_answer_the_run_is_cancelled_and_says_so(
    sqlite_url: str, flow: str
) -> None:
    result = run_fed(sqlite_url, f"{flow}:Ask", "--run-id", "r1", fed="Ann\n")
    assert result.returncode == 1
    assert result.stderr == (
        "runstream: the run was cancelled: nobody answered 'Your colour?': "
        "the standard input has ended\n"
    )
    assert status_of(sqlite_url, "r1") == "cancelled"


def test_in_a_terminal_a_person_is_asked_at_the_prompt(sqlite_url: str, flow: str) -> None:
    shown = run_in_terminal(sqlite_url, "run", f"{flow}:Ask", typed="Ann\nblue\n", NO_COLOR="1")
    assert shown.returncode == 0
    assert shown.text.index("Your name?") < shown.text.index("Your colour?")
    assert '["Ann", "blue"]' in shown.text


def test_in_a_terminal_the_end_of_input_cancels(sqlite_url: str, flow: str) -> None:
    shown = run_in_terminal(sqlite_url, "run", f"{flow}:Ask", typed="\x04")
    assert shown.returncode == 1
    assert "nobody answered 'Your name?'" in shown.text


# --- the live screen -----------------------------------------------------------------------------


def test_a_terminal_shows_steps_texts_progress_and_tasks(sqlite_url: str, flow: str) -> None:
    shown = run_in_terminal(sqlite_url, "run", f"{flow}:Report", NO_COLOR="1")
    assert shown.returncode == 0
    for part in ("Report  run ", "✓  write  done", "gen-1", "rain0 rain1 rain2", "3 of 3"):
        assert part in read(shown)
    for part in ("task notes · completed", "count 3", "completed · record", "See it again:"):
        assert part in read(shown)


def test_a_terminal_shows_a_step_that_was_tried_again_and_one_that_failed(
    sqlite_url: str, flow: str
) -> None:
    shown = run_in_terminal(sqlite_url, "run", f"{flow}:Flaky", "--input", '{"good_at": 9}')
    assert shown.returncode == 1
    assert "failed: ConnectionError: the server hung up (3 attempts)" in read(shown)
    assert "runstream: the run failed in step 'fetch': ConnectionError" in read(shown)


@pytest.mark.parametrize("size", [(20, 5), (40, 10), (200, 60)])
def test_it_draws_on_a_terminal_of_any_size(
    sqlite_url: str, flow: str, size: tuple[int, int]
) -> None:
    assert run_in_terminal(sqlite_url, "run", f"{flow}:Report", size=size).returncode == 0


def test_a_payload_cannot_steer_the_terminal(sqlite_url: str, flow: str) -> None:
    given = json.dumps({"topic": "\x1b[2J\x9b31m\u202e", "words": 1})
    shown = run_in_terminal(sqlite_url, "run", f"{flow}:Report", "--input", given)
    assert "\x1b[2J" not in shown.text
    assert "\x9b" not in shown.text
    assert "\\u001b[2J" in shown.text
