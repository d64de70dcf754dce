"""A file of workflows for `runstream run`, and looks at what it shows."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from command_process import (
    RUNSTREAM,
    Shown,
    environment,
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
stubborn = Stubborn(cancel_grace=600)
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
