from __future__ import annotations

import json
import shlex
import signal
import subprocess
from asyncio import to_thread
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from command_process import environment, run_command, run_in_terminal, started_command
from runstream import Task, connect, drain, flush, process, publish, start_run
from runstream.cli import runstream as cli
from runstream.record import make_draft

# A command's event loop serves nobody but the command.
pytestmark = pytest.mark.allow_blocking


@pytest.fixture(autouse=True)
def closed_publishers() -> Iterator[None]:
    yield
    process.close_publishers()


def tail(url: str, *words: str) -> Result:
    return CliRunner().invoke(cli, ["tail", "--url", url, *words])


def seqs(result: Result) -> list[int]:
    # The first column is a mark: a loss, or how the run ended.
    return [int(line[1:].split()[0]) for line in result.output.splitlines()]


def envelopes(result: Result) -> list[dict[str, object]]:
    return [json.loads(line) for line in result.output.splitlines()]


@pytest.fixture
def url(sqlite_url: str) -> str:
    """A log with a run `r1` of eight records: 1 started, 2 to 7 as below, 8 completed."""
    with start_run("nightly", run_id="r1", url=sqlite_url) as run:
        for index in range(2):
            publish({"text": f"a{index} "}, kind="token", correlation_id="gen-1", index=index)
            publish({"text": f"b{index} "}, kind="token", correlation_id="gen-2", index=index)
        publish({"done": 2}, kind="progress", topic="bar")
        publish({"anything": [1, None]})
        run.set_result({"pages": 3})
    return sqlite_url


def test_a_record_is_one_line_and_columns_are_aligned(url: str) -> None:
    result = tail(url, "r1")
    lines = result.output.splitlines()
    assert len(lines) == 8
    assert len({line.index("gen-") for line in lines if "gen-" in line}) == 1
    assert lines[1].endswith('gen-1#0  "a0 "')
    assert lines[5].endswith("[bar]    done=2")
    assert lines[6].endswith("anything=[1,null]")
    assert lines[7].startswith("✓   8")
    assert lines[7].endswith('result={"pages":3}')


def test_json_is_one_envelope_a_line(url: str) -> None:
    first, *_, last = envelopes(tail(url, "r1", "--json"))
    assert (first["seq"], first["kind"], first["run_id"]) == (1, "run.started", "r1")
    assert (last["seq"], last["data"]) == (8, {"result": {"pages": 3}})


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--from", "6"], [6, 7, 8]),
        (["--from", "0"], [1, 2, 3, 4, 5, 6, 7, 8]),
        (["--last", "2"], [7, 8]),
        (["--kind", "progress"], [6, 8]),
        (["--kind", "progress", "--kind", "event"], [6, 7, 8]),
        (["--topic", "bar"], [6, 8]),
        (["--step", "none"], [8]),
        (["--correlation-id", "gen-2"], [3, 5, 8]),
        (["--correlation-id", "gen-2", "--kind", "token", "--from", "4"], [5, 8]),
        (["--no-follow", "--last", "1"], [8]),
    ],
)
def test_positions_and_filters_choose_the_records(
    url: str, words: list[str], expected: list[int]
) -> None:
    result = tail(url, "r1", *words)
    assert result.exit_code == 0
    assert seqs(result) == expected


def test_after_a_cursor_the_next_record_comes(url: str) -> None:
    with connect(url) as streams:
        cursor = next(streams.subscribe("r1", from_seq=5)).cursor
    assert seqs(tail(url, "r1", "--after", cursor)) == [6, 7, 8]


def test_two_positions_are_a_usage_error(url: str) -> None:
    result = tail(url, "r1", "--from", "1", "--last", "1")
    assert result.exit_code == 2
    assert "only one of --from, --after and --last" in result.output


def test_a_position_past_the_end_is_refused(url: str) -> None:
    result = tail(url, "r1", "--from", "20")
    assert result.exit_code == 2
    assert result.output.startswith("runstream: run 'r1' has 8 records")


def test_latest_is_the_newest_run_that_is_nobodys_child(url: str) -> None:
    with start_run("parent", run_id="r2", url=url), start_run("child", run_id="c2"):
        publish({"text": "from the child"})
    lines = tail(url, "latest").output.splitlines()
    assert len(lines) == 5
    assert lines[0].endswith('root_run_id="r2"')
    assert "  c2  " in lines[2]
    assert lines[3].startswith(" ")  # a child's end is not the end
    assert lines[4].startswith("✓")


@pytest.mark.parametrize(
    ("kind", "data", "exit_code", "mark", "says"),
    [
        ("run.completed", {"result": None}, 0, "✓", "run.completed"),
        (
            "run.failed",
            {"exception": {"type": "ValueError", "message": "no such page"}},
            1,
            "✗",
            "ValueError: no such page",
        ),
        ("run.cancelled", {"reason": "by hand"}, 1, "✗", 'reason="by hand"'),
        ("run.timed_out", {"timeout": 3}, 1, "✗", "timeout=3"),
        ("run.lost", {"reason": "it vanished"}, 1, "✗", 'reason="it vanished"'),
    ],
)
async def test_the_exit_code_and_the_last_line_tell_how_the_run_ended(
    sqlite_url: str, kind: str, data: dict[str, object], exit_code: int, mark: str, says: str
) -> None:
    async with connect(sqlite_url) as streams:
        await streams.log.open("r1", producer=None, workflow="w")
        await streams.log.append("r1", [make_draft("r1", kind, data)], final=True)
    result = await to_thread(run_command, sqlite_url, "tail", "r1", "--kind", "nothing")
    assert result.returncode == exit_code
    assert result.stdout.startswith(mark)
    assert result.stdout.rstrip().endswith(says)


async def test_losses_are_shown_through_every_filter(sqlite_url: str) -> None:
    async with start_run("w", run_id="r1", url=sqlite_url), connect(sqlite_url) as streams:
        for number in range(8):
            publish({"number": number})
        assert await drain(30)
        dropped = make_draft("r1", "stream.dropped", {"count": 12, "reason": "queue_full"})
        await streams.log.append("r1", [dropped])
        await streams.log.trim("r1", through=4)
    result = await to_thread(run_command, sqlite_url, "tail", "r1", "--kind", "none")
    gap, drop, end = result.stdout.splitlines()
    assert gap.startswith("!   -  ")
    assert gap.endswith("records 1 to 4 have been trimmed and cannot be read any more")
    assert drop.startswith("!  10  ")
    assert "12 records were dropped here by their producer (queue_full)" in drop
    assert end.startswith("✓  11  ")
    result = await to_thread(run_command, sqlite_url, "tail", "r1", "--json")
    first = json.loads(result.stdout.splitlines()[0])
    assert "seq" not in first
    assert first["data"] == {"reason": "trimmed", "from_seq": 1, "to_seq": 4, "next_seq": 5}


def test_no_follow_ends_with_what_is_stored_and_0(sqlite_url: str) -> None:
    with start_run("w", run_id="r1", url=sqlite_url):
        publish({"text": "so far"})
        assert flush(30)
        result = run_command(sqlite_url, "tail", "r1", "--no-follow")
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) == 2


@pytest.mark.parametrize("run", ["r1", "latest"])
def test_a_run_that_is_not_there_yet_is_waited_for_and_followed_live(
    sqlite_url: str, run: str
) -> None:
    with started_command(sqlite_url, "tail", run, "--wait", "--json") as process:
        assert process.stdout is not None
        with start_run("w", run_id="r1", url=sqlite_url):
            assert json.loads(process.stdout.readline())["kind"] == "run.started"
            for number in range(20):  # each one only after the last one was seen
                publish({"number": number})
                assert json.loads(process.stdout.readline())["data"] == {"number": number}
        assert json.loads(process.stdout.readline())["kind"] == "run.completed"
        assert process.wait(30) == 0


def test_lines_for_people_come_live_too(sqlite_url: str) -> None:
    with (
        start_run("w", run_id="r1", url=sqlite_url),
        started_command(sqlite_url, "tail", "r1") as process,
    ):
        assert process.stdout is not None
        assert "run.started" in process.stdout.readline()
        publish({"text": "now"})
        assert process.stdout.readline().endswith('"now"\n')


def test_ctrl_c_ends_quietly_with_130(sqlite_url: str) -> None:
    with (
        start_run("w", run_id="r1", url=sqlite_url),
        started_command(sqlite_url, "tail", "r1") as process,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert (out, errors) == ("", "")


def test_ctrl_c_in_a_terminal_says_how_to_go_on_where_one_stopped(sqlite_url: str) -> None:
    with start_run("w", run_id="r1", url=sqlite_url):
        publish({"text": "first"}, kind="token")
        assert flush(30)
        words = ("tail", "r1", "--kind", "token")
        shown = run_in_terminal(sqlite_url, *words, size=(500, 24), interrupt_at="first")
        publish({"text": "second"}, kind="token")
    assert shown.returncode == 130
    assert "Traceback" not in shown.text
    command = shown.text.partition("Go on where you stopped:  ")[2]
    result = subprocess.run(
        shlex.split(command),
        env=environment("memory:"),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert [line[1:].split()[2] for line in result.stdout.splitlines()] == [
        "token",
        "run.completed",
    ]


def test_a_long_history_is_printed_whole_and_in_order(sqlite_url: str) -> None:
    with start_run("w", run_id="r1", url=sqlite_url):
        for number in range(20_000):
            publish({"number": number})
    lines = run_command(sqlite_url, "tail", "r1").stdout.splitlines()
    assert [int(line.lstrip("✓").split()[0]) for line in lines] == list(range(1, 20_003))


def test_a_terminal_gets_a_title_and_lines_that_fit(sqlite_url: str) -> None:
    with start_run("nightly", run_id="r1", url=sqlite_url):
        publish({"text": "word " * 100})
        publish({"text": "漢字" * 100})
    shown = run_in_terminal(sqlite_url, "tail", "r1", size=(60, 20), NO_COLOR="1")
    title, _, first, second, _ = shown.text.splitlines()
    assert "run r1 of nightly, begun " in title
    assert first.endswith("…")
    assert len(first) == 60
    assert second.endswith("…")
    assert shown.returncode == 0


def test_a_task_is_told_by_its_changes(sqlite_url: str) -> None:
    with (
        start_run("w", run_id="r1", url=sqlite_url),
        Task("log-book", state={"count": 1, "notes": ["a"]}) as task,
    ):
        task.append("notes", "b")
        task.update_state({"count": 2})
    said = [
        line.partition("[log-book]  ")[2] for line in tail(sqlite_url, "r1").output.splitlines()
    ]
    assert said[1:-1] == [
        'count=1 notes=["a"]',
        'notes+=["b"]',
        "count=2",
        'count=2 notes=["a","b"]',
    ]


def test_a_payload_cannot_steer_the_terminal(sqlite_url: str) -> None:
    with start_run("w", run_id="r1", url=sqlite_url):
        publish({"text": "\x1b[2J\x9b31m red\r\nnext \u202e"})
    line = tail(sqlite_url, "r1", "--kind", "event").output.splitlines()[0]
    assert line.endswith(r'"\u001b[2J\u009b31m red\r\nnext \u202e"')
