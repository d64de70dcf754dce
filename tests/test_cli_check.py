from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from command_process import run_command, run_in_terminal
from runstream.cli import runstream as cli
from runstream.conformance import CHECKS

# A command's event loop serves nobody but the command.
pytestmark = pytest.mark.allow_blocking

ORDER = [check for check in CHECKS if check.area == "order"]


def check(*words: str) -> Result:
    return CliRunner().invoke(cli, ["check", *words])


def test_a_promise_that_is_kept_is_one_line_and_the_count_closes() -> None:
    result = check("memory:", "--only", "order")
    *lines, empty, count = result.output.splitlines()
    assert len(lines) == len(ORDER)
    assert all(line.startswith("✓ kept  ") for line in lines)
    assert empty == ""
    assert count.startswith(f"{len(ORDER)} promises: {len(ORDER)} kept, 0 broken, ")
    assert result.exit_code == 0


def test_what_a_log_does_not_promise_is_told_and_no_fault() -> None:
    result = check("memory:", "--only", "records_survive_reopening")
    assert result.output.startswith("- n/a")
    assert "1 not applicable" in result.output
    assert result.exit_code == 0


def test_a_broken_promise_is_told_with_the_reason_and_1(tmp_path: Path) -> None:
    # A store that forgets: each time it is opened, it is another file.
    script = tmp_path / "forgetful.py"
    script.write_text(
        "import itertools, sys\n"
        "from runstream import logs\n"
        "from runstream.cli import main\n"
        "open_log, files = logs.open_log, itertools.count()\n"
        f"logs.open_log = lambda url: open_log(f'sqlite:{tmp_path}/{{next(files)}}.db')\n"
        "main()\n"
    )
    name = "records_survive_reopening"
    result = run_command(
        "memory:", "check", "sqlite:x.db", "--only", name, program=(sys.executable, str(script))
    )
    broken, _, count, again = result.stdout.splitlines()
    assert broken.startswith(
        "✗ broken  durability  records survive reopening: unexpected RunNotFound"
    )
    assert "0 kept, 1 broken" in count
    assert again.endswith(f"check sqlite:x.db --only {name}")
    assert result.returncode == 1


def test_json_is_one_outcome_a_line() -> None:
    result = check("memory:", "--only", "order", "--json")
    outcomes = [json.loads(line) for line in result.output.splitlines()]
    assert [outcome["name"] for outcome in outcomes] == [check.name for check in ORDER]
    assert {outcome["status"] for outcome in outcomes} == {"kept"}
    assert all(outcome["promise"] and outcome["seconds"] > 0 for outcome in outcomes)


def test_only_takes_names_and_areas_that_there_are() -> None:
    result = check("memory:", "--only", "everything")
    assert result.exit_code == 2
    assert "the areas are order, durability, " in result.output


def test_a_url_is_needed_because_checks_write_into_the_log() -> None:
    result = check()
    assert result.exit_code == 2
    assert "URL" in result.output


def test_a_terminal_shows_which_check_it_is_at(sqlite_url: str) -> None:
    shown = run_in_terminal(sqlite_url, "check", sqlite_url, "--only", "order")
    assert f"of {len(ORDER)}  " in shown.text
    assert f"{len(ORDER)} promises" in shown.text
    assert shown.returncode == 0


def test_a_server_that_is_not_there_is_one_error() -> None:
    checked = run_command("", "check", "http://127.0.0.1:1")
    assert checked.returncode == 4
    assert checked.stderr.count("\n") == 1
    assert "cannot connect" in checked.stderr
