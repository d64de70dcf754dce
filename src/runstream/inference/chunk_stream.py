"""The chunks of one generation, as a typed async iterator; and the callback form of the same."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

from .assembly import Assembler
from .chunk import InferenceChunk
from .hand_over import PieceSource
from .message import ChatMessage

# A reader that always finds a chunk lets others of its loop run this often, in seconds.
_TURN_S: Final = 0.005

OnChunk = Callable[[InferenceChunk], Awaitable[object] | object]


class InferenceChunkStream:
    """One generation: `async for chunk in stream`, then `stream.message`.

    It begins with the first chunk that is asked for. Leaving the loop, cancelling it or `aclose()` stops
    the engine within one token; then the stream is at its end, and `message` is what came so far.
    """

    def __init__(self, begin: Callable[[], PieceSource]) -> None:
        self._begin = begin
        self._source: PieceSource | None = None
        self._assembler = Assembler()
        self._last: deque[InferenceChunk] = deque()
        self._over = False
        self._turn_ends_s = 0.0

    @property
    def message(self) -> ChatMessage:
        """The model's answer: all of it after the end, until then what came so far."""
        return self._assembler.message()

    def __aiter__(self) -> _Iteration:
        return _Iteration(self)

    async def __anext__(self) -> InferenceChunk:
        if self._over:
            if self._last:
                return self._last.popleft()
            raise StopAsyncIteration
        if self._source is None:
            self._source = self._begin()
        try:
            if time.monotonic() > self._turn_ends_s:
                await asyncio.sleep(0)
                self._turn_ends_s = time.monotonic() + _TURN_S
            while (piece := await self._source.take()) is not None:
                chunk = self._assembler.feed(piece)
                if chunk is not None:
                    return chunk
        except BaseException:
            self.leave()
            raise
        if self._over:  # another task has left meanwhile: this end is not the model's
            raise StopAsyncIteration
        self._over = True
        self._last.extend(self._assembler.end())
        return self._last.popleft()

    def leave(self) -> None:
        """Stop the engine, without waiting until it has."""
        if not self._over:
            self._over = True
            if self._source is not None:
                self._source.leave()

    async def aclose(self) -> None:
        """Stop the engine. Any number of times."""
        self.leave()
        self._last.clear()
        if self._source is not None:
            await self._source.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


class _Iteration:
    """One `async for` over a stream. Only the loop holds it, so when it goes, the loop was left."""

    __slots__ = ("_stream",)

    def __init__(self, stream: InferenceChunkStream) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> InferenceChunk:
        return await self._stream.__anext__()

    def __del__(self) -> None:
        self._stream.leave()


async def run_callback(stream: InferenceChunkStream, on_chunk: OnChunk) -> ChatMessage:
    """Call `on_chunk` once per chunk, here, and wait for what it returns; then the whole message."""
    async with stream:
        async for chunk in stream:
            result = on_chunk(chunk)
            if inspect.isawaitable(result):
                await result
    return stream.message
