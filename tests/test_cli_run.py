"""`runstream run`, in real processes and terminals, on workflows that are written to files."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from command_process import (
    PROCESS_S_MAX,
    RUNSTREAM,
    Shown,
    environment,
    run_command,
    run_in_terminal,
)
from runstream import connect

FLOW = '''\
import asyncio
from runstream import *

class Begin(StartEvent):
    topic: str = "rain"
    words: int = 3

class Draft(Event):
    text: str

class Report(Workflow):
    """Writes, reports progress, keeps a task."""

    @step
    async def write(self, ctx: Context, ev: Begin) -> Draft:
        async with Task("notes", state={"count": 0}) as notes:
            for index in range(ev.words):
                text = f"{ev.topic}{index} "
                publish({"text": text}, kind="token", correlation_id="gen-1", index=index)
                publish({"done": index + 1, "total": ev.words}, kind="progress")
                await notes.update_state({"count": index + 1})
        return Draft(text=f"{ev.topic} " * ev.words)

    @step
    async def check(self, ev: Draft) -> StopEvent:
        return StopEvent(result={"text": ev.text.strip(), "lines": ["a" * 40, "b" * 40]})

class Ask(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        answers = []
        for name in ("name", "colour"):
            answer = await ctx.wait_for_event(
                HumanResponseEvent,
                waiter_event=InputRequiredEvent(prefix=f"Your {name}?", about=name),
                requirements={"about": name},
            )
            answers.append(answer.response)
        return StopEvent(result=answers)

class Approval(HumanResponseEvent):
    pass

class Approve(Workflow):
    @step
    async def ask(self, ev: StartEvent) -> InputRequiredEvent:
        return InputRequiredEvent(prefix="Go on?")

    @step
    async def go_on(self, ev: Approval) -> StopEvent:
        return StopEvent(result=f"said {ev.response}")

tries = []

class Flaky(Workflow):
    @step(retry=Retry(attempts=3, delay=0.01))
    async def fetch(self, ev: StartEvent) -> StopEvent:
        tries.append(1)
        if len(tries) < ev.good_at:
            raise ConnectionError("the server hung up")
        return StopEvent(result=len(tries))

class Sleeper(Workflow):
    @step
    async def sleep(self, ev: StartEvent) -> StopEvent:
        publish({"text": "asleep"}, kind="token")
        await asyncio.sleep(600)
        return StopEvent()

class Stubborn(Workflow):
    @step
    async def stay(self, ev: StartEvent) -> StopEvent:
        while True:
            publish({"text": "still here"}, kind="token")
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                pass

class Unmade(Workflow):
    def __init__(self, path):
        super().__init__()

@step
def double(n):
    return 2 * n

@pipeline
def doubled(n: int, url: str = "none"):
    print("printed by the pipeline")
    return {"n": double(n), "url": url}

@pipeline
async def outer():
    return await Ask().run()

def plain():
    pass

ready = Report()
'''

ALONE = """\
from runstream import *
from words import WORDS

class Only(Workflow):
    @step
    async def only(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result=WORDS)

only = Only(timeout=60)
"""


@pytest.fixture
def flow(tmp_path: Path) -> str:
    """A file of workflows, beside which lie others."""
    (tmp_path / "flow.py").write_text(FLOW)
    (tmp_path / "alone.py").write_text(ALONE)
    (tmp_path / "words.py").write_text("WORDS = ['beside', 'it']\n")
    return str(tmp_path / "flow.py")


def run_fed(url: str, *words: str, fed: str = "") -> subprocess.CompletedProcess[str]:
    """`runstream run` without a terminal, with `fed` as its standard input."""
    return subprocess.run(
        [*RUNSTREAM, "run", *words],
        env=environment(url),
        input=fed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def envelopes(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


def read(shown: Shown) -> str:
    """What a person reads of it: without what steers the terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.text)


def status_of(url: str, run_id: str) -> str:
    with connect(url) as streams:
        return streams.info(run_id).status


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
    with started(sqlite_url, f"{flow}:Stubborn") as process:
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        assert process.stderr.readline().startswith("runstream: cancelling the run")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "left at once" in errors
    assert status_of(sqlite_url, "r1") == "running"  # until its lease has run out


def test_ctrl_c_at_the_prompt_cancels_too(sqlite_url: str, flow: str) -> None:
    shown = interrupt_in_terminal(sqlite_url, "Your name?", f"{flow}:Ask")
    assert shown.returncode == 130
    assert "cancelled · record" in read(shown)


def interrupt_in_terminal(url: str, seen: str, *words: str) -> Shown:
    """`runstream run` in a terminal of its own, with Ctrl-C as soon as `seen` is there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        [*RUNSTREAM, "run", *words],
        env=environment(url, NO_COLOR="1"),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        text = ""
        interrupted = False
        try:
            while select.select([ours], [], [], PROCESS_S_MAX)[0]:
                text += os.read(ours, 65536).decode(errors="replace")
                if not interrupted and seen in text:
                    process.send_signal(signal.SIGINT)
                    interrupted = True
        except OSError:
            pass  # how Linux says that nobody has the terminal open any more
        finally:
            os.close(ours)
            process.kill()
    return Shown(text, process.returncode)


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
        ("{flow}:Report", ["--input", "[1]"], "no object"),
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
