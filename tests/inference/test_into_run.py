"""A generation in a run: what whoever follows it sees, with each provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from inference.questions import WEATHER_TOOL, ask
from runstream import (
    Context,
    Record,
    Retry,
    StartEvent,
    StopEvent,
    Workflow,
    connect,
    pipeline,
    publish,
    start_run,
    step,
)
from runstream.errors import InferenceFailed, InvalidInput
from runstream.inference import ChatMessage, InferenceChunk, Provider, stream_to_run
from runstream.text_fold import TextFold


async def records_of(url: str, run_id: str) -> list[Record]:
    async with connect(url) as streams:
        return [record async for record in streams.subscribe(run_id, follow=False)]


async def chunks_of(*chunks: InferenceChunk | Exception) -> AsyncIterator[InferenceChunk]:
    """These chunks; an error is raised."""
    for chunk in chunks:
        if isinstance(chunk, Exception):
            raise chunk
        yield chunk


def texts(records: list[Record], kind: str) -> list[tuple[int | None, str]]:
    return [(record.index, record.data["text"]) for record in records if record.kind == kind]


async def test_tokens_reasoning_message_and_usage_are_records(
    provider: Provider, memory_url: str
) -> None:
    async with start_run("chat", url=memory_url) as run:
        message = await stream_to_run(
            provider.stream_chunks(ask("think")), correlation_id="gen-1", topic="chat"
        )
    records = [record for record in await records_of(memory_url, run.run_id) if record.topic]
    assert texts(records, "reasoning") == list(enumerate(["Let", " us", " reason", " slowly", "."]))
    assert texts(records, "token") == list(
        enumerate(["The", " answer", " follows", " from", " that", "..."])
    )
    assert {(record.correlation_id, record.topic) for record in records} == {("gen-1", "chat")}
    last = records[-1]
    assert last.kind == "message"
    assert last.data == {
        "role": "assistant",
        "content": message.content,
        "reasoning": "Let us reason slowly.",
        "tool_calls": [],
        "tool_call_id": None,
        "finish_reason": "stop",
        "usage": {
            "prompt_tokens": message.usage and message.usage.prompt_tokens,
            "completion_tokens": 14,
        },
    }


async def test_tool_calls_are_in_the_message(provider: Provider, memory_url: str) -> None:
    async with start_run("chat", url=memory_url) as run:
        message = await stream_to_run(
            provider.stream_chunks(ask("weather"), {"tools": [WEATHER_TOOL]})
        )
    *_, last, _ = await records_of(memory_url, run.run_id)
    assert last.kind == "message"
    (call,) = last.data["tool_calls"]
    assert call == {
        "id": message.tool_calls[0].id,
        "name": "get_weather",
        "arguments": '{"city":"Paris"}',
    }


async def test_two_generations_of_one_run_interleave_and_are_told_apart(
    engine: Provider, memory_url: str
) -> None:
    async with start_run("chat", url=memory_url) as run:
        await asyncio.gather(
            *(
                stream_to_run(
                    engine.stream_chunks(ask("count"), {"max_tokens": 300}), correlation_id=name
                )
                for name in ("a", "b")
            )
        )
    records = [r for r in await records_of(memory_url, run.run_id) if r.kind == "token"]
    names = [record.correlation_id for record in records]
    assert names != sorted(names, key=str)
    for name in ("a", "b"):
        of_one = [record for record in records if record.correlation_id == name]
        assert [record.index for record in of_one] == list(range(300))
        assert "".join(r.data["text"] for r in of_one) == "tick tock " * 150


async def test_the_callback_runs_in_the_run_and_step_of_its_caller(
    provider: Provider, memory_url: str
) -> None:
    @step
    async def tell(ctx: Context, ev: StartEvent) -> StopEvent:
        def on_chunk(chunk: InferenceChunk) -> None:
            publish({"text": chunk.get("delta", "")}, kind="token")

        message = await provider.stream(ask("Hi"), on_chunk)
        return StopEvent(result=message.content)

    handler = Workflow("chat", [tell]).run(url=memory_url)
    assert await handler == "Hello there, I am a tiny model."
    tokens = [r for r in await records_of(memory_url, handler.run_id) if r.kind == "token"]
    assert {record.step for record in tokens} == {"tell"}
    assert "".join(record.data["text"] for record in tokens) == await handler


async def test_a_step_that_is_a_plain_function_may_stream_too(
    provider: Provider, memory_url: str
) -> None:
    @step
    def tell(topic: str) -> str:
        chunks = provider.stream_chunks(ask(f"a {topic}"))
        return asyncio.run(stream_to_run(chunks)).content

    @pipeline
    def write() -> str:
        return tell("joke")

    handler = write.run(url=memory_url)
    assert await handler == "Why did the token cross the stream? To be next!"
    tokens = [r for r in await records_of(memory_url, handler.run_id) if r.kind == "token"]
    assert {record.step for record in tokens} == {"tell"}
    assert "".join(record.data["text"] for record in tokens) == await handler


async def test_a_retried_step_s_tokens_can_be_told_from_those_that_count(
    engine: Provider, memory_url: str
) -> None:
    @step(retry=Retry(attempts=2, delay=0.0))
    async def tell(ctx: Context, ev: StartEvent) -> StopEvent:
        chunks = engine.stream_chunks(ask("Tell me a joke"))
        if ctx.attempt == 1:
            seen = 0

            async def first_three() -> AsyncIterator[InferenceChunk]:
                nonlocal seen
                async for chunk in chunks:
                    if seen == 3:
                        raise OSError("the line is dead")
                    seen += 1
                    yield chunk

            await stream_to_run(first_three())
        message = await stream_to_run(chunks)
        return StopEvent(result=message.content)

    handler = Workflow("chat", [tell]).run(url=memory_url)
    fold = TextFold()
    async for record in handler.subscribe():
        fold.feed(record)
    assert await handler == fold.text() == "Why did the token cross the stream? To be next!"
    assert fold.discarded() == ["Why did the token"]


# --- joining chunks -------------------------------------------------------------------------------

LETTERS = [InferenceChunk(letter) for letter in "abcdefg"]


async def test_text_is_joined_up_to_a_length(memory_url: str) -> None:
    async with start_run("chat", url=memory_url) as run:
        await stream_to_run(chunks_of(*LETTERS), max_chars=3)
    records = await records_of(memory_url, run.run_id)
    assert texts(records, "token") == [(0, "abc"), (1, "def"), (2, "g")]


async def test_text_waits_no_longer_than_it_may_even_when_the_model_pauses(memory_url: str) -> None:
    seen = asyncio.Event()

    async def pausing() -> AsyncIterator[InferenceChunk]:
        for chunk in LETTERS[:3]:
            yield chunk
        async with asyncio.timeout(30):
            await seen.wait()  # until a reader has what was said so far
        yield LETTERS[3]

    async with start_run("chat", url=memory_url) as run, connect(memory_url) as streams:
        publishing = asyncio.ensure_future(stream_to_run(pausing(), max_delay=0.02))
        async for record in streams.subscribe(run.run_id, kinds="token"):
            if record.kind == "token":
                assert record.data == {"text": "abc"}
                break
        seen.set()
        await publishing
    assert texts(await records_of(memory_url, run.run_id), "token") == [(0, "abc"), (1, "d")]


async def test_reasoning_that_waits_comes_before_the_text_after_it(memory_url: str) -> None:
    thoughts = [InferenceChunk(None, letter) for letter in "xy"]
    async with start_run("chat", url=memory_url) as run:
        message = await stream_to_run(chunks_of(*thoughts, *LETTERS), max_delay=60.0)
    kinds = [(r.kind, r.data.get("text")) for r in await records_of(memory_url, run.run_id)]
    assert kinds[1:4] == [("reasoning", "xy"), ("token", "abcdefg"), ("message", None)]
    assert (message.reasoning, message.content) == ("xy", "abcdefg")


async def test_text_that_waits_comes_before_the_reasoning_after_it(memory_url: str) -> None:
    async with start_run("chat", url=memory_url) as run:
        await stream_to_run(
            chunks_of(
                InferenceChunk("a"), InferenceChunk(None, "x"), InferenceChunk("c", "y"), *LETTERS
            ),
            max_delay=60.0,
        )
    kinds = [(r.kind, r.data.get("text")) for r in await records_of(memory_url, run.run_id)]
    assert kinds[1:4] == [("token", "a"), ("reasoning", "xy"), ("token", "cabcdefg")]


async def test_what_waits_is_published_before_an_error_comes_out(memory_url: str) -> None:
    failing = chunks_of(*LETTERS, InferenceFailed("gone"))
    async with start_run("chat", url=memory_url) as run:
        with pytest.raises(InferenceFailed, match="gone"):
            await stream_to_run(failing, max_delay=60.0)
    records = await records_of(memory_url, run.run_id)
    assert texts(records, "token") == [(0, "abcdefg")]
    assert "message" not in {record.kind for record in records}


@pytest.mark.parametrize("options", [{"max_delay": -1.0}, {"max_chars": 0}])
async def test_limits_that_are_none_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="max_delay is at least 0"):
        await stream_to_run(chunks_of(), **options)


async def test_outside_any_run_the_message_comes_all_the_same() -> None:
    message = await stream_to_run(chunks_of(*LETTERS))
    assert message == ChatMessage.assistant("abcdefg")
