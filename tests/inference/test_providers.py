"""What all providers have in common, each on its real engine or server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from inference.questions import WEATHER_TOOL, answer, ask
from runstream.errors import InvalidInput
from runstream.inference import (
    ChatMessage,
    InferenceChunk,
    InferenceOptions,
    Provider,
    ToolCall,
)


async def test_text_comes_in_pieces_and_the_last_chunk_alone_says_why_it_ended(
    provider: Provider,
) -> None:
    chunks, message = await answer(provider, "Hi")
    *pieces, last = chunks
    assert [piece.delta for piece in pieces] == [
        *("Hello", " there", ",", " I", " am", " a", " tiny", " model", ".")
    ]
    assert all(piece.finish_reason is None and piece.usage is None for piece in pieces)
    assert (last.delta, last.finish_reason) == (None, "stop")
    assert message.content == "Hello there, I am a tiny model."
    assert message.role == "assistant"
    assert message.finish_reason == "stop"
    assert message.usage is not None
    assert message.usage.completion_tokens == 10  # the end is a token, too
    assert message.usage.prompt_tokens > 10
    assert last.usage == message.usage


async def test_reasoning_is_told_from_the_answer(provider: Provider) -> None:
    chunks, message = await answer(provider, "Please think")
    reasoning = [chunk.reasoning_delta for chunk in chunks if chunk.reasoning_delta]
    text = [chunk.delta for chunk in chunks if chunk.delta]
    assert reasoning == ["Let", " us", " reason", " slowly", "."]
    assert text == ["The", " answer", " follows", " from", " that", "..."]
    assert message.reasoning == "Let us reason slowly."
    assert message.content == "The answer follows from that..."


async def test_a_tool_call_comes_whole_and_its_result_is_answered(provider: Provider) -> None:
    chunks, message = await answer(
        provider, "The weather in Paris?", tools=[WEATHER_TOOL], tool_choice="auto"
    )
    calls = [call for chunk in chunks for call in chunk.tool_calls]
    assert calls == list(message.tool_calls)
    (call,) = calls
    assert (call.name, call.arguments) == ("get_weather", '{"city":"Paris"}')
    assert call.decode_arguments() == {"city": "Paris"}
    assert call.id
    assert message.finish_reason == chunks[-1].finish_reason == "tool_calls"

    history = [*ask("The weather in Paris?"), message]
    result = ChatMessage.tool('{"sky":"clear"}', tool_call_id=call.id)
    final = await provider.stream([*history, result], chunks.append, {"tools": [WEATHER_TOOL]})
    assert final.content == "It is sunny in Paris today ☀."
    assert final.finish_reason == "stop"


async def test_what_was_thought_and_called_before_goes_back_into_the_chat(
    provider: Provider,
) -> None:
    call = ToolCall("call_1", "get_weather", '{"city":"Paris"}')
    history = [
        ChatMessage.system("You are a test."),
        ChatMessage.user("think"),
        ChatMessage.assistant("Yes.", reasoning="Hm."),
        ChatMessage.user("weather"),
        ChatMessage.assistant(reasoning="A tool!", tool_calls=[call]),
        ChatMessage.tool("clear", tool_call_id="call_1"),
        ChatMessage.assistant("Clear."),
        ChatMessage.user("A joke, please"),
    ]
    message = await provider.stream(history, str, {"tools": [WEATHER_TOOL]})
    assert message.content == "Why did the token cross the stream? To be next!"
    assert message.usage is not None
    assert message.usage.prompt_tokens > 400


async def test_characters_that_the_model_splits_come_whole(provider: Provider) -> None:
    chunks, message = await answer(provider, "An emoji")
    assert message.content == "Smile 😀 café done"
    assert "".join(chunk.delta or "" for chunk in chunks) == message.content
    assert not [chunk for chunk in chunks if chunk == InferenceChunk()]


async def test_options_mean_the_same_everywhere(provider: Provider) -> None:
    _, message = await answer(provider, "count", max_tokens=5, temperature=0.0, top_p=0.9)
    assert message.content == "tick tock tick tock tick"
    assert message.finish_reason == "length"
    _, message = await answer(provider, "count", stop="ock", presence_penalty=0, max_tokens=20)
    assert message.content == "tick t"  # up to the text, though the token is " tock"
    assert message.finish_reason == "stop"
    _, message = await answer(provider, "weather", tools=[WEATHER_TOOL], tool_choice="none")
    assert not message.tool_calls


async def test_options_may_be_typed_and_messages_may_be_dicts(provider: Provider) -> None:
    chunks: list[InferenceChunk] = []
    message = await provider.stream(
        [{"role": "system", "content": "You count."}, {"role": "user", "content": "count"}],
        chunks.append,
        InferenceOptions(max_tokens=2),
    )
    assert message.content == "tick tock "


async def test_the_iterator_gives_what_the_callback_gets(provider: Provider) -> None:
    stream = provider.stream_chunks(ask("Please think"))
    chunks = [chunk async for chunk in stream]
    called, message = await answer(provider, "Please think")
    assert chunks == called
    assert stream.message == message
    assert [chunk async for chunk in stream] == []


async def test_a_callback_may_be_async_and_the_next_chunk_waits_for_it(provider: Provider) -> None:
    inside = 0
    seen: list[str] = []

    async def on_chunk(chunk: InferenceChunk) -> None:
        nonlocal inside
        assert inside == 0
        inside += 1
        await asyncio.sleep(0)
        inside -= 1
        seen.append(chunk.delta or "")

    message = await provider.stream(ask("Hi"), on_chunk)
    assert "".join(seen) == message.content


async def test_two_generations_at_once_interleave(provider: Provider) -> None:
    order: list[int] = []

    async def generate(number: int) -> ChatMessage:
        return await provider.stream(
            ask("count"), lambda _: order.append(number), {"max_tokens": 500}
        )

    first, second = await asyncio.gather(generate(1), generate(2))
    assert first.content == second.content
    changes = sum(before != after for before, after in pairwise(order))
    assert changes > 10


async def test_more_generations_than_fit_at_once_all_come_to_an_end(provider: Provider) -> None:
    messages = await asyncio.gather(*(answer(provider, "Tell me a joke") for _ in range(12)))
    assert {message.content for _, message in messages} == {
        "Why did the token cross the stream? To be next!"
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_token": 3}, "unknown option 'max_token'; there are: .*max_tokens"),
        ({"max_tokens": 0}, "max_tokens is a whole number from 1"),
        ({"max_tokens": True}, "max_tokens is a whole number"),
        ({"temperature": "hot"}, "temperature is a number from 0 to 10, not 'hot'"),
        ({"temperature": float("nan")}, "temperature is a number"),
        ({"stop": [""]}, "stop is a text or a list of texts"),
        ({"stop": 3}, "stop is a text or a list of texts"),
        ({"tools": {"type": "function"}}, "tools are a list"),
        ({"tools": [{"name": "f"}]}, "a tool is"),
        ({"tool_choice": "auto"}, "there are no tools"),
        ({"tools": [WEATHER_TOOL], "tool_choice": "get_wether"}, "not 'get_wether'"),
        ({"tools": [WEATHER_TOOL], "tool_choice": 3}, "tool_choice is a name"),
    ],
)
async def test_an_option_that_is_none_is_refused_by_name(
    provider: Provider, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        provider.stream_chunks(ask("Hi"), options)


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"type": "nonsense"}, "there is no type 'nonsense'"),
        ([1], "is no object"),
        ({"type": "array"}, "not of type object"),
        ({"type": "object", "properties": {"a": {"type": "text"}}}, "'a'.*there is no type 'text'"),
        ({"type": "object", "required": "city"}, "`required` is a list of names"),
        ({"type": "object", "properties": ["city"]}, "`properties` are schemas by name"),
        ({"properties": {"a": {"anyOf": {"type": "string"}}}}, "`anyOf` is a list of schemas"),
        ({"properties": {"a": {"enum": []}}}, "`enum` is a list of values"),
        ({"properties": {"a": {"items": 3}}}, "3 is no object"),
        ({"properties": {"a": {"default": float}}}, "not JSON"),
    ],
)
async def test_a_tool_whose_schema_is_none_is_refused(
    provider: Provider, parameters: object, words: str
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with pytest.raises(InvalidInput, match=words):
        provider.stream_chunks(ask("Hi"), {"tools": [tool]})


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "no message"),
        ("Hi", "messages are a list"),
        ([{"content": "Hi"}], "message 0 has no role"),
        ([ChatMessage.user("Hi"), {"role": "wizard", "content": "Hi"}], "message 1 .*'wizard'"),
        ([{"role": "user", "content": "Hi", "mood": "good"}], "unknown fields: mood"),
        ([{"role": "user", "content": 3}], "content is not text"),
        ([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "content is not text"),
        ([{"role": "tool", "content": "Hi"}], "tool_call_id"),
        ([{"role": "assistant", "tool_calls": [{"id": "1"}]}], "a tool call is"),
        (["Hi"], "neither a ChatMessage nor a dict"),
    ],
)
async def test_a_message_that_is_none_is_refused(
    provider: Provider, messages: Any, words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        provider.stream_chunks(messages)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="this system tells no threads")
def test_mistral_rs_takes_as_many_threads_as_it_is_given(gguf: Path) -> None:
    # In processes of their own, because the first model decides for all.
    program = """
        import asyncio, os, sys
        from runstream.inference import MistralRsOptions, MistralRsProvider

        provider = MistralRsProvider(options=MistralRsOptions(sys.argv[1], threads=int(sys.argv[2])))
        asyncio.run(provider.load())
        print(len(os.listdir("/proc/self/task")))
    """
    counts = [
        int(
            subprocess.run(
                [sys.executable, "-c", textwrap.dedent(program), gguf, threads],
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            ).stdout
        )
        for threads in ("1", "6")
    ]
    assert counts[1] >= counts[0] + 5
