"""The demo: two stories are written at the same time, token by token, by a model if there is one.

A workflow that does what real ones do: steps side by side, tokens, progress, for each story a task whose
state grows, and a step that collects. Whoever wants to see a run of it follows it like any other.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

from .events import Event, StartEvent, StopEvent
from .publishing import publish
from .step import step
from .storyteller import Storyteller
from .task import Task
from .workflow import Workflow
from .workflow_context import Context

STORIES: Final = {
    "gen-1": (
        "At dusk the keeper climbed the hundred steps and lit the lamp.",
        "Fog had taken the harbour, the boats, even the gulls.",
        "So he counted the dark between two flashes, as his mother had taught him.",
        "Far out, a bell answered.",
        "Good, he thought: somebody is counting with me.",
    ),
    "gen-2": (
        "The captain could no longer see her own bow.",
        "She had lost the coast an hour ago, but not her count.",
        "One flash, nine seconds of dark, one flash: that way lay home.",
        "After each she rang the bell, so that the shore would know.",
        "Whoever keeps that light, she thought, has not missed a single one.",
    ),
}
# What the model is asked for.
CUES: Final = {"gen-1": "keeper", "gen-2": "captain"}
# What the story's log book says when a sentence is finished.
NOTES: Final = {
    "gen-1": ("lamp lit", "fog", "counting", "a bell!", "not alone"),
    "gen-2": ("bow lost", "coast lost", "light seen", "bell rung", "none missed"),
}
# What the log book counts, and once in how many tokens.
SIGNALS: Final = {"gen-1": ("flashes", 6), "gen-2": ("bells", 12)}

# Seconds between two tokens of a story: about as fast as one reads, six seconds in all.
TOKEN_S: Final = 0.125
# Progress is for people: once in so many tokens is enough.
TOKENS_PER_PROGRESS: Final = 5


@dataclass
class Evening:
    """What both stories share: how far they are."""

    done: int = 0
    total: int = 0


class Begin(StartEvent):
    """How many times as fast as one reads."""

    speed: float = 1.0


class Tell(Event):
    """A story is to be written."""

    generation: str
    token_s: float


class Told(Event):
    """A story is written."""

    generation: str
    tokens: int


class Demo(Workflow):
    """Two stories at the same time. A run takes six seconds."""

    def __init__(self) -> None:
        super().__init__("demo")
        self._teller = Storyteller({CUES[name]: story for name, story in STORIES.items()})

    @step
    async def begin(self, ctx: Context[Evening], ev: Begin) -> list[Tell]:
        """Hand out the stories."""
        async with ctx.store.edit_state() as evening:
            evening.total = sum(sum(self._teller.lengths(cue)) for cue in CUES.values())
        return [Tell(generation=name, token_s=TOKEN_S / ev.speed) for name in STORIES]

    @step(num_workers=len(STORIES))
    async def tell(self, ctx: Context[Evening], ev: Tell) -> Told:
        """Write one story, and its log book."""
        name = ev.generation
        pace = random.Random(name)  # noqa: S311 - a reader's pulse, not a secret
        signal, every = SIGNALS[name]
        index = 0
        state: dict[str, Any] = {signal: 0, "notes": []}
        async with Task("log-book", state=state) as book:
            ends = dict(zip(accumulate(self._teller.lengths(CUES[name])), NOTES[name], strict=True))
            async for token in self._teller.tell(CUES[name]):
                await asyncio.sleep(ev.token_s * pace.uniform(0.4, 1.6))
                publish({"text": token}, kind="token", correlation_id=name, index=index)
                index += 1
                await _count(ctx)
                if index % every == 0:
                    await book.update_state({signal: book.state[signal] + 1})
                if index in ends:
                    await book.append("notes", ends[index])
        return Told(generation=name, tokens=index)

    @step
    async def bind(self, ctx: Context[Evening], ev: Told) -> StopEvent | None:
        """Collect the stories; the last one ends the run."""
        told = ctx.collect_events(ev, [Told] * len(STORIES))
        if told is None:
            return None
        return StopEvent(result={"stories": len(told), "tokens": sum(one.tokens for one in told)})


async def _count(ctx: Context[Evening]) -> None:
    async with ctx.store.edit_state() as evening:
        evening.done += 1
        if evening.done % TOKENS_PER_PROGRESS == 0 or evening.done == evening.total:
            publish({"done": evening.done, "total": evening.total}, kind="progress")
