"""Who writes the demo's stories: a real model if llama.cpp is installed, else the same tokens from a list.

The model is the tiny one, with the stories as its scripts: a true forward pass for each token.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import tempfile
import weakref
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from .inference import ChatMessage, LlamaCppOptions, LlamaCppProvider, Script, TinyModel

# Models write long words in pieces.
_PIECE_LENGTH: Final = 6


class Storyteller:
    """Tells stories by name, each any number of times and beside one another.

    `stories` are sentences, by a name that is a word of small letters: it is what the model is asked for.
    """

    def __init__(self, stories: Mapping[str, Sequence[str]]) -> None:
        self._pieces = _pieces(stories)
        self._opening: asyncio.Task[LlamaCppProvider] | None = None

    def lengths(self, name: str) -> list[int]:
        """How many tokens each sentence of a story has."""
        return [len(sentence) for sentence in self._pieces[name]]

    async def tell(self, name: str) -> AsyncIterator[str]:
        """The tokens of a story; joined, they are its sentences, with a space behind each."""
        if importlib.util.find_spec("xllamacpp") is None:
            for sentence in self._pieces[name]:
                for piece in sentence:
                    yield piece
            return
        if self._opening is None:
            self._opening = asyncio.create_task(asyncio.to_thread(self._open))
        provider = await asyncio.shield(self._opening)
        question = [ChatMessage.user(f"Tell me about the {name}.")]
        async for chunk in provider.stream_chunks(question, {"temperature": 0.0}):
            if chunk.delta:
                yield chunk.delta

    def _open(self) -> LlamaCppProvider:
        scripts = [
            Script(name, tuple(piece for sentence in sentences for piece in sentence))
            for name, sentences in self._pieces.items()
        ]
        folder = Path(tempfile.mkdtemp(prefix="runstream-demo-"))
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        model = TinyModel(scripts).write_gguf(folder / "storyteller.gguf")
        return LlamaCppProvider(
            options=LlamaCppOptions(model_path=model, parallel=len(scripts), threads=1)
        )


def _pieces(stories: Mapping[str, Sequence[str]]) -> dict[str, list[list[str]]]:
    """The stories in tokens, by sentence: no token comes twice, as the tiny model demands.

    A piece that was there before takes the next one in.
    """
    taken: set[str] = set()
    told: dict[str, list[list[str]]] = {}
    for name, sentences in stories.items():
        told[name] = []
        for sentence in sentences:
            pieces: list[str] = []
            rest = ""
            for piece in _split(sentence):
                rest += piece
                if rest not in taken:
                    pieces.append(rest)
                    taken.add(rest)
                    rest = ""
            if rest:  # the end of the sentence was there before
                rest = pieces.pop() + rest
                taken.add(rest)
                pieces.append(rest)
            told[name].append(pieces)
    return told


def _split(sentence: str) -> list[str]:
    """The sentence in pieces, as a model would send it; joined, they are the sentence and a space."""
    pieces: list[str] = []
    for word in sentence.split():
        cut = _PIECE_LENGTH if len(word) > _PIECE_LENGTH + 2 else len(word)
        pieces += [piece for piece in (word[:cut], word[cut:]) if piece]
        pieces[-1] += " "
    return pieces
