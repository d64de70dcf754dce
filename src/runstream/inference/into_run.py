"""Into the run: a generation's chunks become records of the run, for whoever follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable
from typing import Final

import msgspec

from ..errors import InvalidInput
from ..publishing import publish
from .chunk import InferenceChunk
from .chunk_stream import InferenceChunkStream
from .message import ChatMessage, ToolCall, Usage

REASONING: Final = "reasoning"
MESSAGE: Final = "message"


async def stream_to_run(
    chunks: AsyncIterable[InferenceChunk],
    *,
    kind: str = "token",
    reasoning_kind: str = REASONING,
    message_kind: str = MESSAGE,
    correlation_id: str | None = None,
    topic: str | None = None,
    max_delay: float = 0.0,
    max_chars: int | None = None,
) -> ChatMessage:
    """Publish a generation as it comes, and return the whole message.

    Each chunk of text is a record `{"text": …}` of `kind`, each chunk of reasoning one of
    `reasoning_kind`; `index` counts both kinds from 0, each for itself. At the end one record of
    `message_kind` has the whole message: role, content, reasoning, tool calls, finish reason, usage.

    As all records of a step they name its attempt: if the step is tried again, `step.retrying` tells
    readers to discard what this attempt wrote.

    Args:
        chunks: of `provider.stream_chunks(…)`.
        kind, reasoning_kind, message_kind: the kinds of the records.
        correlation_id: tells generations of one run apart.
        topic: a sub-stream of the run.
        max_delay: seconds that text may wait for company, so that fast models make fewer records. Zero:
            each chunk is a record.
        max_chars: publish text that waits as soon as it is this long.

    Raises:
        What `chunks` and `publish` raise; text that waited is published before. Cancelling stops the
        engine.
    """
    if max_delay < 0 or (max_chars is not None and max_chars < 1):
        raise InvalidInput("max_delay is at least 0, and max_chars at least 1")

    def text_stream(of: str) -> _Text:
        return _Text(of, topic, correlation_id, max_delay, max_chars)

    text, reasoning = text_stream(kind), text_stream(reasoning_kind)
    collected = _Collected()
    try:
        async for chunk in chunks:
            collected.add(chunk)
            # What came first is read first.
            if chunk.reasoning_delta:
                text.flush()
                reasoning.add(chunk.reasoning_delta)
            if chunk.delta:
                reasoning.flush()
                text.add(chunk.delta)
    except Exception:
        reasoning.flush()
        text.flush()
        raise
    finally:
        reasoning.cancel()
        text.cancel()
        if isinstance(chunks, InferenceChunkStream):
            await chunks.aclose()
    reasoning.flush()
    text.flush()
    message = collected.message()
    publish(
        msgspec.to_builtins(message), kind=message_kind, topic=topic, correlation_id=correlation_id
    )
    return message


class _Collected:
    """The message that chunks make."""

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: list[ToolCall] = []
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    def add(self, chunk: InferenceChunk) -> None:
        if chunk.delta:
            self._content.append(chunk.delta)
        if chunk.reasoning_delta:
            self._reasoning.append(chunk.reasoning_delta)
        self._tool_calls.extend(chunk.tool_calls)
        self._finish_reason = chunk.finish_reason or self._finish_reason
        self._usage = chunk.usage or self._usage

    def message(self) -> ChatMessage:
        return ChatMessage(
            role="assistant",
            content="".join(self._content),
            reasoning="".join(self._reasoning),
            tool_calls=tuple(self._tool_calls),
            finish_reason=self._finish_reason,
            usage=self._usage,
        )


class _Text:
    """The records of one kind: numbered, and joined while they may wait."""

    def __init__(
        self,
        kind: str,
        topic: str | None,
        correlation_id: str | None,
        max_delay: float,
        max_chars: int | None,
    ) -> None:
        self._kind = kind
        self._topic = topic
        self._correlation_id = correlation_id
        self._max_delay = max_delay
        self._max_chars = max_chars
        self._waiting: list[str] = []
        self._chars = 0
        self._index = 0
        self._timer: asyncio.TimerHandle | None = None
        self._error: Exception | None = None

    def add(self, text: str) -> None:
        if not self._max_delay and self._max_chars is None:
            self._publish(text)
            return
        self._waiting.append(text)
        self._chars += len(text)
        if self._max_chars is not None and self._chars >= self._max_chars:
            self.flush()
        elif self._max_delay and self._timer is None:
            # The model may pause: then nobody calls, but the text is due all the same.
            self._timer = asyncio.get_running_loop().call_later(self._max_delay, self._due)

    def flush(self) -> None:
        self.cancel()
        if self._error is not None:
            raise self._error
        if self._waiting:
            text = "".join(self._waiting)
            self._waiting.clear()
            self._chars = 0
            self._publish(text)

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _due(self) -> None:
        try:
            self.flush()
        except Exception as error:  # noqa: BLE001 - raised where the next text is added
            self._error = error

    def _publish(self, text: str) -> None:
        if self._error is not None:
            raise self._error
        publish(
            {"text": text},
            kind=self._kind,
            topic=self._topic,
            correlation_id=self._correlation_id,
            index=self._index,
        )
        self._index += 1
