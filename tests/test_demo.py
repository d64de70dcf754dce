from __future__ import annotations

import re
import shlex
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from command_process import environment, run_command, run_in_terminal
from runstream import Record, RunCancelled, connect, process, start_run
from runstream.cli import demo_server
from runstream.demo import NOTES, STORIES, Demo
from server_process import ServerProcess
from services.engine import free_port

TALES = {generation: " ".join(story) for generation, story in STORIES.items()}
SIGNS = ("flashes", "bells")
SERVED = ("demo", "--once", "--speed", "200")
# Most of what the demo says has nothing to do with how the records travel.
FAST = (*SERVED, "--no-server")


@pytest.fixture(autouse=True)
def closed_publishers() -> Iterator[None]:
    yield
    process.close_publishers()


async def records_of_demo(url: str) -> list[Record]:
    await Demo().run(url=url, run_id="d1", speed=1000.0)
    async with connect(url) as streams:
        return [record async for record in streams.subscribe("d1")]


async def test_two_stories_come_token_by_token_at_the_same_time(sqlite_url: str) -> None:
    tokens = [record for record in await records_of_demo(sqlite_url) if record.kind == "token"]
    for generation, tale in TALES.items():
        ours = [token for token in tokens if token.correlation_id == generation]
        assert "".join(token.data["text"] for token in ours).strip() == tale
        assert [token.index for token in ours] == list(range(len(ours)))
    turns = [key for key, _ in groupby(tokens, key=lambda token: token.correlation_id)]
    assert len(turns) > 20


async def test_progress_reaches_its_total_and_the_run_says_what_came_out(sqlite_url: str) -> None:
    records = await records_of_demo(sqlite_url)
    tokens = sum(record.kind == "token" for record in records)
    progress = [record.data for record in records if record.kind == "progress"]
    assert progress[-1] == {"done": tokens, "total": tokens}
    assert records[-1].data == {"result": {"stories": 2, "tokens": tokens}}


async def test_its_steps_are_in_the_stream_two_of_them_side_by_side(sqlite_url: str) -> None:
    steps = [
        (record.kind.removeprefix("step."), record.step)
        for record in await records_of_demo(sqlite_url)
        if record.kind.startswith("step.")
    ]
    assert steps[:4] == [
        ("started", "begin"),
        ("completed", "begin"),
        ("started", "tell"),
        ("started", "tell"),
    ]
    assert Counter(steps[4:]) == {
        ("completed", "tell"): 2,
        ("started", "bind"): 2,
        ("completed", "bind"): 2,
    }


async def test_each_story_has_a_log_book_which_readers_fold(sqlite_url: str) -> None:
    await records_of_demo(sqlite_url)
    async with connect(sqlite_url) as streams:
        books = {book.id: book async for book in streams.handler("d1").tasks("log-book")}
    assert [book.status for book in books.values()] == ["completed", "completed"]
    assert sorted(book["notes"] for book in books.values()) == sorted(map(list, NOTES.values()))
    flashes, bells = (max(book.state.get(k, 0) for book in books.values()) for k in SIGNS)
    assert flashes > bells > 0


async def test_cancelling_it_ends_the_run_as_cancelled(sqlite_url: str) -> None:
    handler = Demo().run(url=sqlite_url, run_id="d1", speed=0.1)
    kinds: list[str] = []
    async for record in handler.subscribe():
        kinds.append(record.kind)
        if kinds.count("task.started") == 1 and record.kind == "task.started":
            await handler.cancel_run()
    assert kinds[-1] == "run.cancelled"
    assert "task.cancelled" in kinds
    with pytest.raises(RunCancelled):
        await handler


# --- the command ---------------------------------------------------------------------------------


def test_without_a_terminal_it_tells_the_stories_in_plain_lines(sqlite_url: str) -> None:
    result = run_command(sqlite_url, "demo", "--speed", "200")
    assert result.returncode == 0
    assert not result.stderr
    assert "\x1b" not in result.stdout
    for sentence in [*STORIES["gen-1"], *STORIES["gen-2"]]:
        assert sentence in result.stdout
    seqs = [int(seq) for seq in re.findall(r"^ +(\d+)  \S+  ", result.stdout, re.MULTILINE)]
    assert seqs == sorted(set(seqs))


def test_it_says_what_was_stored_as_the_log_has_it(sqlite_url: str) -> None:
    text = run_command(sqlite_url, *FAST).stdout
    with connect(sqlite_url) as streams:
        (info,) = streams.list_runs()
        records = list(streams.subscribe(info.run_id))
    kinds = Counter(record.kind for record in records)
    assert f"{len(records)} records are stored" in text
    assert f"{kinds['token']} token" in text
    assert f"{kinds['progress']} progress" in text
    assert sqlite_url in text


def test_the_commands_that_it_prints_follow_it_again(sqlite_url: str) -> None:
    text = run_command(sqlite_url, *FAST).stdout
    everything, tokens, runs = [
        subprocess.run(
            shlex.split(line, comments=True),
            # They must work where nobody has set a URL.
            env=environment("") | {"RUNSTREAM_URL": "memory:"},
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        ).stdout
        for line in text.splitlines()
        if line.startswith("  ") and " -m runstream " in line and " serve" not in line
    ]
    total = len(everything.splitlines())
    assert f"{total} records are stored" in text
    assert 0 < len(tokens.splitlines()) < total
    assert "completed" in runs


def test_the_python_that_it_prints_follows_it_again(sqlite_url: str) -> None:
    text = run_command(sqlite_url, *FAST).stdout
    code = "\n".join(line[2:] for line in text.splitlines()[-3:])
    assert code.startswith("from runstream import connect\nwith connect(")
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment("memory:"),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert f"{len(result.stdout.splitlines())} records are stored" in text


def test_it_runs_through_a_server_whose_events_curl_can_follow(sqlite_url: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "runstream", "demo", "--once", "--url", sqlite_url],
        stdout=subprocess.PIPE,
        text=True,
        env=environment("memory:"),
    ) as demo:
        assert demo.stdout is not None
        _, console, events = (demo.stdout.readline() for _ in range(3))
        page = urllib.request.urlopen(console.split()[1].partition("#")[0]).read()
        curl = shlex.split(events.removeprefix("events:"))
        said = subprocess.run(curl, capture_output=True, text=True, check=True, timeout=120).stdout
        rest = demo.stdout.read()
    assert b"<title>Runstream</title>" in page
    assert "event: run.completed" in said
    assert said.count("\nevent: token\n") > 50
    assert "records are stored" in rest
    assert demo.returncode == 0


def test_a_demo_whose_port_another_server_has_just_taken_has_a_server_of_its_own(
    server: ServerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports = iter([server.port, free_port()])
    # As if both had looked for a free one at the same moment.
    monkeypatch.setattr(demo_server, "_free_port", lambda: next(ports))
    log = f"sqlite:{tmp_path}/demo.db"
    with demo_server.DemoServer(log) as own, start_run("w", run_id="mine", url=own.url):
        assert own.url != server.url
    with connect(log) as streams:
        assert [run.run_id for run in streams.list_runs()] == ["mine"]


def test_without_a_server_it_writes_straight_into_the_log(sqlite_url: str) -> None:
    text = run_command(sqlite_url, *FAST).stdout
    assert "records are stored" in text
    assert "http:" not in text


def test_in_a_terminal_it_draws_both_stories_and_ends_by_itself_when_told_so(
    sqlite_url: str,
) -> None:
    shown = run_in_terminal(sqlite_url, *SERVED)
    assert shown.returncode == 0
    assert "\x1b[" in shown.text
    for part in (
        "╭─",
        "gen-1",
        "gen-2",
        "progress",
        "log-book",
        "records/s",
        "tail latest",
        "In a browser:",
        "tell",
    ):
        assert part in shown.text.replace("\r\n", " ")
    assert "Enter shows it again" not in shown.text


@pytest.mark.parametrize("size", [(20, 5), (40, 10), (200, 60)])
def test_it_draws_on_a_terminal_of_any_size(sqlite_url: str, size: tuple[int, int]) -> None:
    assert run_in_terminal(sqlite_url, *FAST, size=size).returncode == 0


def test_in_a_terminal_enter_shows_it_again(sqlite_url: str) -> None:
    # The end of input, typed as Ctrl-D, leaves after the second run.
    shown = run_in_terminal(sqlite_url, "demo", "--speed", "200", typed="\n\x04")
    assert shown.returncode == 0
    assert shown.text.count("Enter shows it again") == 2
    with connect(sqlite_url) as streams:
        assert len(streams.list_runs(workflow="demo", status="completed")) == 2


def test_ctrl_c_ends_the_run_as_cancelled_and_says_so(sqlite_url: str) -> None:
    shown = run_in_terminal(sqlite_url, "demo", "--speed", "0.1", interrupt_at="The")
    assert shown.returncode == 130
    assert "the run is stored as cancelled" in shown.text
    assert "Traceback" not in shown.text
    with connect(sqlite_url) as streams:
        (info,) = streams.list_runs()
    assert info.status == "cancelled"


def test_in_a_terminal_that_cannot_move_it_is_plain(sqlite_url: str) -> None:
    shown = run_in_terminal(sqlite_url, *FAST, TERM="dumb")
    assert "\x1b" not in shown.text
    assert STORIES["gen-1"][0] in shown.text


def test_a_memory_log_is_not_offered_for_following_again(sqlite_url: str) -> None:
    text = run_command(sqlite_url, *FAST, "--url", "memory:").stdout
    assert "records are stored" in text
    assert "runstream tail" not in text


def test_a_log_that_cannot_be_used_is_one_clear_line(sqlite_url: str) -> None:
    result = run_command(sqlite_url, *FAST, "--url", "sqlite:/dev/null/events.db")
    assert result.returncode == 4
    assert result.stderr.startswith("runstream: ")
    assert result.stderr.count("\n") == 1
