"""The demo run: two stories are written at the same time, as two models would, token by token.

It publishes what real runs do: tokens of two parallel generations, progress, and a task whose state
grows. It only publishes; whoever wants to see it follows the run like any other.
"""

from __future__ import annotations

import asyncio
import random
from typing import Any, Final

from .publishing import publish
from .run import start_run
from .task import Task

WORKFLOW: Final = "demo"

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
# What the log book says when a sentence is finished.
NOTES: Final = {
    "gen-1": ("lamp lit", "fog", "counting", "a bell!", "not alone"),
    "gen-2": ("bow lost", "coast lost", "light seen", "bell rung", "none missed"),
}
# What the log book counts, and once in how many tokens of that story.
SIGNALS: Final = {"gen-1": ("flashes", 6), "gen-2": ("bells", 12)}

# Seconds between two tokens of a story: about as fast as one reads, six seconds in all.
TOKEN_S: Final = 0.11
# Progress is for people: once in so many tokens is enough.
TOKENS_PER_PROGRESS: Final = 5

# Models write long words in pieces.
_PIECE_LENGTH: Final = 6


async def run_demo(*, url: str, run_id: str, speed: float = 1.0) -> None:
    """Publish the demo run into the log at `url`; returns when it is stored. Takes 6 s / `speed`.

    Cancelling ends the run as cancelled.
    """
    total = sum(len(_tokens(sentence)) for story in STORIES.values() for sentence in story)
    async with start_run(WORKFLOW, run_id=run_id, url=url, parent=None) as run:
        state: dict[str, Any] = {"flashes": 0, "bells": 0, "notes": []}
        async with Task("log-book", state=state) as book:
            evening = _Evening(book, total, TOKEN_S / speed)
            async with asyncio.TaskGroup() as group:
                for generation in STORIES:
                    group.create_task(evening.tell(generation))
        run.set_result({"stories": len(STORIES), "tokens": total})


class _Evening:
    """What both stories share: the log book, and how far they are."""

    def __init__(self, book: Task[dict[str, Any]], total: int, token_s: float) -> None:
        self._book = book
        self._total = total
        self._done = 0
        self._token_s = token_s

    async def tell(self, generation: str) -> None:
        pace = random.Random(generation)  # noqa: S311 - a reader's pulse, not a secret
        signal, every = SIGNALS[generation]
        index = 0
        for sentence, note in zip(STORIES[generation], NOTES[generation], strict=True):
            for token in _tokens(sentence):
                await asyncio.sleep(self._token_s * pace.uniform(0.4, 1.6))
                publish({"text": token}, kind="token", correlation_id=generation, index=index)
                index += 1
                self._count()
                if index % every == 0:
                    await self._book.update_state({signal: self._book.state[signal] + 1})
            await self._book.append("notes", note)

    def _count(self) -> None:
        self._done += 1
        if self._done % TOKENS_PER_PROGRESS == 0 or self._done == self._total:
            publish({"done": self._done, "total": self._total}, kind="progress")


def _tokens(sentence: str) -> list[str]:
    """The sentence in pieces, as a model would send it; joined, they are the sentence and a space."""
    pieces: list[str] = []
    for word in sentence.split():
        cut = _PIECE_LENGTH if len(word) > _PIECE_LENGTH + 2 else len(word)
        pieces += [piece for piece in (word[:cut], word[cut:]) if piece]
        pieces[-1] += " "
    return pieces
