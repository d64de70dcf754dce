"""`runstream run`: how it ends, also by Ctrl-C, and what newcomers get wrong."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command_process import (
    RUNSTREAM,
    environment,
    run_command,
    run_in_terminal,
)
from flow_file import FLOW, envelopes, flow, read, run_fed, status_of

__all__ = ["flow"]

# --- how it ends ---------------------------------------------------------------------------------


def test_a_failure_says_the_step_the_error_and_the_line(sqlite_url: str, flow: str) -> None:
    result = run_fed(sqlite_url, f"{flow}:Flaky", "--input", '{"good_at": 9}')
    assert result.returncode == 1
    line = FLOW.splitlines().index('            raise ConnectionError("the server hung up")') + 1
    assert result.stderr == (
        "runstream: the run failed in step 'fetch': ConnectionError: the server hung up "
        f"({flow}, line {line})\n"
    )


def test_debug_shows_the_traceback_of_a_failure(sqlite_url: str, flow: str) -> None:
    result = run_fed(sqlite_url, f"{flow}:Flaky", "--input", '{"good_at": 9}', "--debug")
    assert result.stderr.startswith("Traceback")
    assert result.stderr.splitlines()[-1].startswith("runstream: the run failed")


def test_a_time_limit_ends_any_workflow(sqlite_url: str, flow: str) -> None:
    result = run_fed(sqlite_url, f"{flow}:Sleeper", "--timeout", "0.2", "--run-id", "r1")
    assert result.returncode == 1
    assert result.stderr == "runstream: the run exceeded its 0.2 s, at work on sleep\n"
    assert status_of(sqlite_url, "r1") == "timed_out"


@contextmanager
def started(url: str, *words: str) -> Generator[subprocess.Popen[str]]:
    """`runstream run --json`, read up to its first token."""
    with subprocess.Popen(
        [*RUNSTREAM, "run", *words, "--json", "--run-id", "r1"],
        env=environment(url),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            while json.loads(process.stdout.readline())["kind"] != "token":
                pass
            yield process
        finally:
            process.kill()


def test_ctrl_c_cancels_the_run_and_shows_its_end(sqlite_url: str, flow: str) -> None:
    with started(sqlite_url, f"{flow}:Sleeper") as process:
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert envelopes(output)[-1]["kind"] == "run.cancelled"
    assert errors.splitlines()[-1] == "runstream: the run was cancelled: Ctrl-C"


def test_ctrl_c_twice_leaves_at_once(sqlite_url: str, flow: str) -> None:
    with started(sqlite_url, f"{flow}:stubborn") as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("runstream: cancelling the run")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "left at once" in errors
    assert status_of(sqlite_url, "r1") == "running"  # until its lease has run out


def test_ctrl_c_at_the_prompt_cancels_too(sqlite_url: str, flow: str) -> None:
    shown = run_in_terminal(
        sqlite_url, "run", f"{flow}:Ask", interrupt_at="Your name?", NO_COLOR="1"
    )
    assert shown.returncode == 130
    assert "cancelled · record" in read(shown)


def test_a_reader_that_leaves_ends_the_run(sqlite_url: str, flow: str) -> None:
    with started(sqlite_url, f"{flow}:Report", "--input", '{"words": 100000}') as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(60) == 141
    assert status_of(sqlite_url, "r1") == "cancelled"


# --- what newcomers get wrong --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "words", "says"),
    [
        ("nowhere.py", [], "nowhere.py is not there"),
        ("no_such_module:Flow", [], "there is no module 'no_such_module'"),
        ("{flow}:", [], "is not FILE_OR_MODULE:NAME"),
        ("{flow}:Reprot", [], "has no 'Reprot'; did you mean 'Report'?"),
        ("{flow}", [], "has several; say which: {flow}:Report"),
        ("{flow}:plain", [], "put @pipeline above it"),
        ("{flow}:double", [], "is a step; a Workflow or a @pipeline function runs it"),
        ("{flow}:asyncio", [], "is a module"),
        ("{flow}:Unmade", [], "cannot be made without arguments"),
        ("{flow}:Report", ["--input", "{topic: 1}"], "--input is not JSON"),
        ("{flow}:Report", ["--input", "[1]"], "must be a JSON object"),
        ("{flow}:Report", ["--input", "@nowhere.json"], "cannot be read from 'nowhere.json'"),
        ("{flow}:Report", ["--input", '{"words": "many"}'], "doesn't fit Begin: words: Input"),
        ("{flow}:doubled", [], "missing a required argument: 'n'"),
        ("{flow}:doubled", ["--input", '{"n": 1, "m": 2}'], "unexpected keyword argument 'm'"),
        ("{flow}:Report", ["--run-id", "/"], "not a run id"),
        ("{flow}:Report", ["--url", "carrier-pigeon:"], "a URL begins with"),
    ],
)
def test_a_mistake_is_one_clear_line(
    sqlite_url: str, flow: str, target: str, words: list[str], says: str
) -> None:
    result = run_fed(sqlite_url, target.format(flow=flow), *words)
    assert result.returncode == 2
    assert not result.stdout
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("runstream: ")
    assert says.format(flow=flow) in result.stderr


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("\nimport numpty\n", "ModuleNotFoundError: No module named 'numpty' ({path}, line 2)"),
        ("def f(:\n", "SyntaxError: invalid syntax ({path}, line 1)"),
        ("1 / 0\n", "ZeroDivisionError: division by zero ({path}, line 1)"),
        ("raise SystemExit\n", "it ends the program when it is imported"),
        ("x = 1\n", "has neither a Workflow nor a @pipeline function"),
    ],
)
def test_a_file_that_cannot_be_imported_says_its_error_and_line(
    sqlite_url: str, tmp_path: Path, source: str, says: str
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(source)
    result = run_fed(sqlite_url, str(path))
    assert result.returncode == 2
    assert says.format(path=path) in result.stderr
    assert result.stderr.count("\n") == 1
    assert "Traceback" in run_fed(sqlite_url, str(path), "--debug").stderr


def test_a_workflow_that_cannot_work_is_refused_before_it_runs(
    sqlite_url: str, tmp_path: Path
) -> None:
    (tmp_path / "odd.py").write_text(
        "from runstream import *\n"
        "class Lost(Event): pass\n"
        "class Odd(Workflow):\n"
        "    @step\n"
        "    async def begin(self, ev: StartEvent) -> Lost | StopEvent: ...\n"
    )
    result = run_fed(sqlite_url, f"{tmp_path}/odd.py", "--run-id", "r1")
    assert result.returncode == 2
    assert "step 'begin' of 'Odd' returns Lost, which no step accepts" in result.stderr
    assert run_command(sqlite_url, "tail", "r1").returncode == 3


def test_an_id_that_is_taken_is_refused(sqlite_url: str, flow: str) -> None:
    assert run_fed(sqlite_url, f"{flow}:Report", "--run-id", "r1").returncode == 0
    again = run_fed(sqlite_url, f"{flow}:Report", "--run-id", "r1")
    assert again.returncode == 2
    assert "choose another --run-id" in again.stderr
    assert not again.stdout


def test_a_log_that_cannot_be_used_is_one_clear_line(sqlite_url: str, flow: str) -> None:
    result = run_fed(sqlite_url, f"{flow}:Report", "--url", "sqlite:/dev/null/events.db")
    assert result.returncode == 4
    assert result.stderr.count("\n") == 1
