"""Everything that works on a log in this process works on a server's, with its URL and a token alone."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
import threading
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from command_process import run_command
from runstream import (
    Context,
    Event,
    HumanResponseEvent,
    StartEvent,
    StopEvent,
    Task,
    Workflow,
    attach,
    bind,
    connect,
    drain,
    flush,
    process,
    publish,
    run_environment,
    start_run,
    step,
)
from runstream.cli import runstream as cli
from runstream.errors import Forbidden, RunCancelled, RunNotFound, Unauthorized
from runstream.run import new_run_id
from server_process import ServerProcess, running_server

# The commands and programs that are started here take a second or two.
pytestmark = pytest.mark.allow_blocking


class Remote:
    """A server that asks for keys; one may do everything, one may only read."""

    def __init__(self, server: ServerProcess, writer: str, reader: str) -> None:
        self.url = server.url
        self.writer = writer
        self.reader = reader


@pytest.fixture(scope="module")
def server_with_keys(tmp_path_factory: pytest.TempPathFactory) -> Generator[Remote]:
    folder = tmp_path_factory.mktemp("server")
    keys = folder / "keys"
    tokens: list[str] = []
    for scopes in (("admin",), ("runs:read",)):
        words = [word for scope in scopes for word in ("--scope", scope)]
        created = CliRunner().invoke(cli, ["token", "create-key", "--keys", str(keys), *words])
        assert created.exit_code == 0, created.output
        tokens.append(created.stdout.strip())
    with running_server(folder, f"sqlite:{folder}/events.db", "--keys", str(keys)) as server:
        yield Remote(server, *tokens)


@pytest.fixture
def remote(server_with_keys: Remote, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    """This process, and those that it starts, have the token that may write, in their environment."""
    monkeypatch.setenv("RUNSTREAM_URL", server_with_keys.url)
    monkeypatch.setenv("RUNSTREAM_TOKEN", server_with_keys.writer)
    yield server_with_keys
    process.close_publishers()


async def numbers(run_id: str) -> list[int]:
    async with connect() as streams:
        subscription = streams.subscribe(run_id, kinds="event")
        return [r.data["n"] async for r in subscription if r.kind == "event"]


async def test_publish_from_everywhere_inside_a_run(remote: Remote) -> None:
    async with start_run("nightly") as run:
        publish({"n": 1})
        await asyncio.to_thread(publish, {"n": 2})
        thread = threading.Thread(target=bind(publish), args=({"n": 3},))
        thread.start()
        thread.join()
        assert await drain()
        async with attach(run.run_id, step="other"):
            publish({"n": 4})
    assert await numbers(run.run_id) == [1, 2, 3, 4]


def test_plain_code_needs_no_loop(remote: Remote) -> None:
    with start_run("nightly") as run:
        publish({"n": 1})
        assert flush()
    with connect() as streams:
        assert [r.kind for r in streams.subscribe(run.run_id)] == [
            "run.started",
            "event",
            "run.completed",
        ]
        assert run.run_id in {info.run_id for info in streams.list_runs(workflow="nightly")}


async def test_a_run_that_is_not_there_is_said_to_be_so_with_advice_and_nothing_of_the_servers_own(
    remote: Remote,
) -> None:
    said: set[str] = set()
    for url in ("memory:", remote.url):
        async with connect(url) as streams:
            with pytest.raises(RunNotFound) as caught:
                await streams.handler("not-there").result()
        said.add(str(caught.value))
    (text,) = said
    for hint in ("'not-there'", "RUNSTREAM_URL", "wait=True", "runstream ls"):
        assert hint in text


async def test_a_task_streams_its_state(remote: Remote) -> None:
    async with start_run("nightly") as run, Task("answer", state={"tokens": []}) as task:
        for word in ("Hello", "world"):
            await task.append("tokens", word)
    async with connect() as streams:
        states = [state.state async for state in streams.handler(run.run_id).tasks("answer")]
    assert states[-1] == {"tokens": ["Hello", "world"]}


async def test_a_subprocess_publishes_into_the_run_with_the_token_of_the_environment(
    remote: Remote,
) -> None:
    program = "from runstream import publish; publish({'n': 2})"
    async with start_run("nightly") as run:
        publish({"n": 1})
        assert await drain()
        command = [sys.executable, "-c", program]
        done = await asyncio.to_thread(
            subprocess.run, command, env=run_environment(), capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
    assert remote.writer not in run_environment().get("RUNSTREAM_RUN", "")
    assert await numbers(run.run_id) == [1, 2]


FORKING = """
import os, sys
from runstream import flush, publish, start_run
with start_run("nightly", run_id=sys.argv[1]):
    publish({"n": 1})
    assert flush(30)  # what two processes have queued at the same time comes in any order
    child = os.fork()
    if child == 0:
        publish({"n": 2})
        sys.exit(0 if flush(30) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    publish({"n": 3})
"""


async def test_a_forked_child_has_a_connection_of_its_own(remote: Remote) -> None:
    run_id = new_run_id()
    forked = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKING, run_id)
    assert await forked.wait() == 0
    assert await numbers(run_id) == [1, 2, 3]


# (Other files of tests have events of these names, too, and whoever looks at a run from outside gets the
# newest class of a kind in its process, unless it says which one it means.)
class Question(Event):
    text: str


class Answer(HumanResponseEvent):
    text: str


class Ask(Workflow):
    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Question(text="which?"))
        answer = await ctx.wait_for_event(Answer)
        return StopEvent(result=answer.text)


async def test_a_run_is_followed_signalled_and_awaited_from_outside(remote: Remote) -> None:
    running = Ask(name="ask").run()
    async with connect(remote.url, token=remote.writer) as streams:
        await anext(streams.subscribe(running.run_id, wait=True))
        handler = streams.handler(running.run_id)
        async for event in handler.stream_events(classes=[Question]):
            if isinstance(event, Question):
                await handler.send_event(Answer(text="this one"))
        assert await handler == "this one"
    assert await running == "this one"


@pytest.mark.parametrize("again", [False, True])
async def test_a_loop_that_is_left_in_the_middle_leaves_the_server(
    server: ServerProcess, again: bool
) -> None:
    """At once, not when the collector of garbage comes by; one that is kept goes on where it was left."""

    def subscribers() -> str:
        figures = server.call("GET", "/metrics").body.decode()
        return figures.partition("\nrunstream_subscribers ")[2].partition("\n")[0]

    assert server.call("PUT", "/v1/runs/r", {"workflow": "w"}).status == 201
    events = {"events": [{"kind": "note"}] * 3}
    assert server.call("POST", "/v1/runs/r/events", events).status == 200
    gc.disable()
    try:
        async with connect(server.url) as streams, asyncio.timeout(30):
            subscription = streams.subscribe("r")
            async for record in subscription:
                assert record.seq == 1
                break
            if again:
                async for record in subscription:
                    assert record.seq == 2
                    break
            assert subscribers() == "1.0"
            del subscription
            while subscribers() != "0.0":
                await asyncio.sleep(0.01)
    finally:
        gc.enable()


async def test_a_run_is_cancelled_from_outside(remote: Remote) -> None:
    running = Ask(name="ask").run()
    async with connect() as streams:
        await anext(streams.subscribe(running.run_id, wait=True))
        handler = streams.handler(running.run_id)
        async for event in handler.stream_events(classes=[Question]):
            if isinstance(event, Question):
                await handler.cancel_run("enough")
        with pytest.raises(RunCancelled):
            await handler
    with pytest.raises(RunCancelled):
        await running


async def test_a_follower_may_wait_for_a_run_that_is_not_there_yet(remote: Remote) -> None:
    run_id = new_run_id()
    async with connect() as streams:
        with pytest.raises(RunNotFound):
            await anext(streams.subscribe(run_id))
        waiting = asyncio.ensure_future(anext(streams.subscribe(run_id, wait=True)))
        async with start_run("nightly", run_id=run_id):
            assert (await waiting).kind == "run.started"


async def test_who_may_only_read_follows_and_cannot_write(remote: Remote) -> None:
    async with start_run("nightly") as run:
        publish({"n": 1})
    async with connect(token=remote.reader) as streams:
        assert (await streams.info(run.run_id)).lease is None
        assert len([r async for r in streams.subscribe(run.run_id)]) == 3
        with pytest.raises(Forbidden):
            await streams.handler(run.run_id).cancel_run()


async def test_without_a_token_nothing_is_told(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RUNSTREAM_TOKEN")
    for token in (None, "wrong"):
        async with connect(token=token) as streams:
            with pytest.raises(Unauthorized):
                await streams.list_runs()
            with pytest.raises(Unauthorized):
                await anext(streams.subscribe("whichever"))
    with pytest.raises(Unauthorized):
        async with start_run("nightly"):
            pass


FLOW = """
from runstream import pipeline, publish, step

@step
def say(word: str) -> None:
    publish({"text": word})

@pipeline
def hello() -> str:
    say("hello")
    return "done"
"""


def test_the_commands_work_against_a_server(remote: Remote, tmp_path: Path) -> None:
    (tmp_path / "flow.py").write_text(FLOW)
    ours = {"RUNSTREAM_TOKEN": remote.writer}
    run_id = new_run_id()
    words = ("--url", remote.url)
    ran = run_command("", "run", str(tmp_path / "flow.py"), "--run-id", run_id, *words, **ours)
    assert ran.returncode == 0, ran.stderr
    tailed = run_command("", "tail", run_id, "--json", *words, **ours)
    kinds = [json.loads(line)["kind"] for line in tailed.stdout.splitlines()]
    assert (kinds[0], kinds[-1]) == ("run.started", "run.completed")
    assert "event" in kinds
    assert run_id in run_command("", "ls", *words, **ours).stdout
    checked = run_command("", "check", remote.url, "--only", "order", **ours)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    for command in (("ls", *words), ("tail", run_id, *words)):
        refused = run_command("", *command, RUNSTREAM_TOKEN="wrong")
        assert refused.returncode != 0
        assert "token" in refused.stderr
        assert "Traceback" not in refused.stderr
        assert remote.writer not in refused.stderr + refused.stdout
