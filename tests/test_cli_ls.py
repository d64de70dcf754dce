from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime

import pytest
from click.testing import CliRunner, Result

from command_process import run_in_terminal
from runstream import process, publish, start_run
from runstream.cli import runstream as cli
from runstream.cli.ls import duration, roughly

# A command's event loop serves nobody but the command.
pytestmark = pytest.mark.allow_blocking

SECOND = 1_000_000


@pytest.fixture(autouse=True)
def closed_publishers() -> Iterator[None]:
    yield
    process.close_publishers()


def ls(url: str, *words: str) -> Result:
    result = CliRunner().invoke(cli, ["ls", "--url", url, *words])
    assert result.exit_code == 0, result.output
    return result


def runs(result: Result) -> list[str]:
    return [line.split()[0] for line in result.stdout.splitlines()[1:]]


@pytest.fixture
def url(sqlite_url: str) -> str:
    """A log with three runs: a completed one, then a failed one, then a child of a third."""
    with start_run("nightly", run_id="first", url=sqlite_url):
        publish({"text": "a"})
    with (
        pytest.raises(ValueError, match="no such page"),
        start_run("nightly", run_id="second", url=sqlite_url),
    ):
        raise ValueError("no such page")
    with start_run("hourly", run_id="third", url=sqlite_url), start_run("part", run_id="child"):
        publish({"text": "b"})
    return sqlite_url


def test_runs_are_listed_newest_first_with_what_one_wants_to_know(url: str) -> None:
    result = ls(url)
    header, child, third, second, first = result.stdout.splitlines()
    assert header.split() == ["RUN", "WORKFLOW", "STATUS", "BEGUN", "TOOK", "RECORDS"]
    assert child.split()[:4] == ["child", "part", "(child)", "completed"]
    assert third.split()[:3] == ["third", "hourly", "completed"]
    assert second.split()[:3] == ["second", "nightly", "failed"]
    assert first.split()[0] == "first"
    assert first.split()[-1] == "3"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--workflow", "nightly"], ["second", "first"]),
        (["--status", "failed"], ["second"]),
        (["--workflow", "nightly", "--status", "completed"], ["first"]),
        (["--limit", "2"], ["child", "third"]),
    ],
)
def test_runs_can_be_chosen(url: str, words: list[str], expected: list[str]) -> None:
    assert runs(ls(url, *words)) == expected
    lines = ls(url, "--json", *words).stdout.splitlines()
    assert [json.loads(line)["run_id"] for line in lines] == expected


def test_json_is_one_run_a_line(url: str) -> None:
    child, *_, first = map(json.loads, ls(url, "--json").stdout.splitlines())
    assert first["status"] == "completed"
    assert first["last_seq"] == 3
    assert datetime.fromisoformat(first["created"]) <= datetime.fromisoformat(first["ended"])
    assert child["parent_run_id"] == child["root_run_id"] == "third"


def test_a_screen_is_not_flooded_but_a_program_gets_all_runs(sqlite_url: str) -> None:
    for number in range(23):
        with start_run("w", run_id=f"r{number}", url=sqlite_url):
            pass
    assert runs(ls(sqlite_url)) == [f"r{number}" for number in range(22, 2, -1)]
    assert len(ls(sqlite_url, "--json").stdout.splitlines()) == 23
    shown = run_in_terminal(sqlite_url, "ls")
    assert "--limit 200" in shown.text
    assert "--limit" not in run_in_terminal(sqlite_url, "ls", "--limit", "23").text


def test_an_id_is_never_cut_so_that_it_can_be_pasted(sqlite_url: str) -> None:
    name = "0123456789" * 12
    with start_run("w", run_id=name, url=sqlite_url):
        pass
    assert runs(ls(sqlite_url)) == [name]
    shown = run_in_terminal(sqlite_url, "ls", size=(60, 24), NO_COLOR="1")
    assert "…" not in shown.text
    assert (
        "".join(line.split()[0] for line in shown.text.splitlines()[1:]).count("0123456789") == 12
    )


def test_an_empty_log_says_how_to_fill_it_and_where_it_looked(sqlite_url: str) -> None:
    result = ls(sqlite_url)
    assert not result.stdout
    assert sqlite_url in result.stderr
    assert f"runstream demo --url {sqlite_url}" in result.stderr
    assert not ls(sqlite_url, "--json").output


def test_a_filter_that_finds_nothing_says_only_that(url: str) -> None:
    result = ls(url, "--workflow", "yearly")
    assert not result.stdout
    assert result.stderr == f"No such run in {url}.\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5.0, "0 ms"),
        (0.0004, "0.4 ms"),
        (0.4246, "425 ms"),
        (9.5, "9.5 s"),
        (59.96, "60 s"),
        (60, "1 min 0 s"),
        (200.9, "3 min 20 s"),
        (7_500, "2 h 5 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_a_duration_is_as_precise_as_it_is_read(seconds: float, text: str) -> None:
    assert duration(round(seconds * SECOND)) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0 s"), (0, "0 s"), (59, "59 s"), (60, "1 min"), (7_199, "1 h"), (10**6, "11 d")],
)
def test_an_age_is_told_in_its_largest_unit(seconds: int, text: str) -> None:
    assert roughly(seconds * SECOND) == text
