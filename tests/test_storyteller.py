from __future__ import annotations

import asyncio
import sys

import pytest

from runstream.demo import CUES, STORIES
from runstream.storyteller import Storyteller

TALES = {CUES[name]: story for name, story in STORIES.items()}


async def told(teller: Storyteller, name: str) -> list[str]:
    return [token async for token in teller.tell(name)]


async def test_the_model_tells_every_story_whole_and_both_at_once() -> None:
    teller = Storyteller(TALES)
    for _ in range(2):
        texts = await asyncio.gather(*(told(teller, name) for name in TALES))
        for text, (name, sentences) in zip(texts, TALES.items(), strict=True):
            assert "".join(text) == " ".join(sentences) + " "
            assert len(text) == sum(teller.lengths(name))
    opening = teller._opening  # pyright: ignore[reportPrivateUsage] # it was the model, not the list
    assert opening is not None
    await (await opening).aclose()


async def test_without_llama_cpp_the_tokens_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    teller = Storyteller(TALES)
    by_the_model = [await told(teller, name) for name in TALES]
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    without = Storyteller(TALES)
    assert [await told(without, name) for name in TALES] == by_the_model
    assert without._opening is None  # pyright: ignore[reportPrivateUsage] # nothing was loaded


def test_no_token_comes_twice_and_the_sentences_are_whole() -> None:
    teller = Storyteller({"a": ["one two one two", "three"], "b": ["two one, extraordinarily"]})
    assert teller.lengths("a") == [3, 1]
    assert teller.lengths("b") == [3]
