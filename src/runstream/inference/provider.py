"""The contract of a provider: one protocol for every source of tokens."""

from __future__ import annotations

from typing import Protocol

from .chunk_stream import InferenceChunkStream, OnChunk
from .message import ChatMessage, Messages
from .options import Options


class Provider(Protocol):
    """A model that answers, wherever it runs. Safe to use from many tasks at once."""

    async def stream(
        self, messages: Messages, on_chunk: OnChunk, options: Options = None
    ) -> ChatMessage:
        """Answer, calling `on_chunk` once per chunk; returns the whole answer when it is done.

        The callback may be plain or async. It runs here, in the caller's task, so that it can `publish`,
        and the next chunk waits for it. If it raises, or the call is cancelled, the engine stops within
        one token, and the error comes out here.

        Raises:
            InvalidInput: a message or an option is not acceptable; nothing was asked of the engine.
            ExtraMissing: the engine is not installed.
            InferenceFailed: the engine could not answer to the end; the message has its words.
        """
        ...

    def stream_chunks(self, messages: Messages, options: Options = None) -> InferenceChunkStream:
        """The same as a typed async iterator; `InvalidInput` is raised here, the others by its first step."""
        ...

    async def load(self) -> None:
        """Get ready now, instead of in the first generation.

        The engines' own code holds the interpreter's lock while it loads a model: nothing else runs in
        this process meanwhile. So load before there is anything to keep waiting.

        Raises:
            ExtraMissing, InferenceFailed: as `stream` would.
        """
        ...

    async def aclose(self) -> None:
        """End what is still being generated (its readers get InferenceFailed), and free the model."""
        ...
