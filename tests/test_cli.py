from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

import runstream
from command_process import RUNSTREAM, environment, run_command, run_in_terminal
from runstream import process, publish, start_run
from runstream.cli import runstream as cli

# A command's event loop serves nobody but the command.
pytestmark = pytest.mark.allow_blocking

COMMANDS = ("demo", "run", "tail", "ls", "check")


@pytest.fixture(autouse=True)
def closed_publishers() -> Iterator[None]:
    yield
    process.close_publishers()


def invoke(*words: str) -> str:
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    return result.output


def test_help_names_every_command_and_where_to_begin() -> None:
    text = invoke("--help")
    assert all(f"\n  {command} " in text for command in COMMANDS)
    assert "runstream demo" in text
    assert invoke("-h") == text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_each_command_has_examples_that_it_understands(command: str) -> None:
    text = invoke(command, "--help")
    examples = [
        line.split() for line in text.splitlines() if line.startswith("  " * 2 + "runstream ")
    ]
    assert examples
    for _, name, *words in examples:
        assert name == command
        assert all(word in text.partition("Examples:")[0] for word in words if word[:2] == "--")


def test_the_version_is_that_of_the_package() -> None:
    assert invoke("--version") == f"runstream {runstream.__version__}\n"


def test_an_unknown_command_or_option_is_a_usage_error(sqlite_url: str) -> None:
    for words in (["tial"], ["tail"], ["tail", "r1", "--follow-me"], ["ls", "--status", "odd"]):
        result = run_command(sqlite_url, *words)
        assert result.returncode == 2
        assert "--help" in result.stderr
        assert not result.stdout


@pytest.mark.parametrize(
    ("words", "exit_code", "says"),
    [
        (["tail", "nobody"], 3, "runstream ls"),
        (["tail", "latest"], 3, "runstream demo"),
        (["ls", "--url", "carrier-pigeon:"], 2, "a URL begins with"),
        (["ls", "--url", "sqlite:/dev/null/events.db"], 4, "/dev/null"),
        (["check", "sqlite:/dev/null/events.db"], 4, "/dev/null"),
        (["tail", "r1", "--after", "12"], 2, "not a cursor: '12'"),
    ],
)
def test_an_error_of_ours_is_one_line_that_says_what_to_do(
    sqlite_url: str, words: list[str], exit_code: int, says: str
) -> None:
    result = run_command(sqlite_url, *words)
    assert result.returncode == exit_code
    assert not result.stdout
    assert result.stderr.startswith("runstream: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr


def test_debug_adds_the_traceback_and_changes_nothing_else(sqlite_url: str) -> None:
    result = run_command(sqlite_url, "tail", "nobody", "--debug")
    assert result.returncode == 3
    assert "Traceback" in result.stderr
    assert "RunNotFound" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("runstream: there is no run 'nobody'")


def test_a_setting_that_cannot_be_is_a_usage_error() -> None:
    result = run_command("", "ls", RUNSTREAM_RETENTION_S="soon", RUNSTREAM_URL="memory:")
    assert result.returncode == 2
    assert "RUNSTREAM_RETENTION_S" in result.stderr


def test_a_reader_that_leaves_is_no_error(sqlite_url: str) -> None:
    with start_run("w", run_id="r1", url=sqlite_url):
        for number in range(5000):  # more than a pipe holds
            publish({"number": number})
    script = f"{' '.join(RUNSTREAM)} tail r1 | head -2; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(
        ["bash", "-c", script],
        env=environment(sqlite_url),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["1", "2", "141"]
    assert not result.stderr


@pytest.mark.parametrize("words", [["tail", "r1"], ["ls"], ["check", "memory:", "--only", "order"]])
def test_colours_are_for_terminals_and_can_be_declined(sqlite_url: str, words: list[str]) -> None:
    with start_run("w", run_id="r1", url=sqlite_url):
        publish({"text": "Hi"}, kind="token", correlation_id="gen-1")
    assert "\x1b[" not in run_command(sqlite_url, *words).stdout
    assert "\x1b[3" in run_in_terminal(sqlite_url, *words).text
    assert "\x1b[3" not in run_in_terminal(sqlite_url, *words, NO_COLOR="1").text


def test_a_terminal_that_lacks_a_character_still_gets_the_line(sqlite_url: str) -> None:
    with start_run("w", run_id="r1", url=sqlite_url):
        publish({"text": "漢字"})
    result = run_command(sqlite_url, "tail", "r1", PYTHONIOENCODING="latin-1")
    assert result.returncode == 0
    assert "\\u6f22\\u5b57" in result.stdout


def test_the_module_runs_as_the_command_does(sqlite_url: str) -> None:
    assert run_command(sqlite_url, "--version").stdout == invoke("--version")
