"""What servers do wrong, and what they do differently, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

import pytest

from inference.questions import answer, ask
from inference.scripted_server import DONE, chunk, data, refuse, scripted_server, stay_open, stream
from runstream.errors import InferenceFailed, InvalidInput
from runstream.inference import ChatMessage, OpenAIProvider, ToolCall, Usage
from runstream.inference.openai_server import LINE_BYTES_MAX

GOOD = stream(chunk("Hel"), chunk("lo"), chunk(finish="stop"), DONE)


def provider_of(base_url: str, max_retries: int = 0) -> OpenAIProvider:
    return OpenAIProvider("m", base_url=base_url, max_retries=max_retries)


async def test_the_request_has_the_form_of_the_api() -> None:
    call = ToolCall("call_1", "f", '{"a":1}')
    messages = [
        ChatMessage.system("Be brief."),
        ChatMessage.user("Hi"),
        ChatMessage.assistant(reasoning="Hm.", tool_calls=[call]),
        ChatMessage.tool("3", tool_call_id="call_1"),
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    async with (
        scripted_server(GOOD) as server,
        OpenAIProvider(
            "m", base_url=server.base_url, api_key="k1", extra_body={"min_p": 0.1}
        ) as provider,
    ):
        options = {"max_tokens": 5, "stop": "x", "seed": 7, "tools": [tool], "tool_choice": "f"}
        await provider.stream(messages, str, options)
    (request,) = server.requests
    assert request == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "stop": ["x"],
        "seed": 7,
        "min_p": 0.1,
        "tools": [tool],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a":1}'},
                    }
                ],
            },
            {"role": "tool", "content": "3", "tool_call_id": "call_1"},
        ],
    }
    assert "bearer k1" in server.headers[0].lower()


async def test_the_key_of_the_environment_is_not_told_to_a_server_of_one_s_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    async with scripted_server(GOOD) as server, provider_of(server.base_url) as provider:
        await answer(provider, "Hi")
    assert "sk-secret" not in server.headers[0]


async def test_without_address_and_key_the_client_says_what_it_wants(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    async with OpenAIProvider("m") as provider:
        with pytest.raises(InferenceFailed, match="OPENAI_API_KEY"):
            await answer(provider, "Hi")


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_server_that_refuses_is_told_with_its_status_and_words(status: int) -> None:
    reply = refuse(status, "out of llamas")
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        with pytest.raises(InferenceFailed, match="out of llamas") as failed:
            await answer(provider, "Hi")
    assert failed.value.status == status
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [429, 500])
async def test_a_request_that_was_refused_for_now_is_made_again(status: int) -> None:
    reply = refuse(status, "busy", retry_after_ms="1")
    async with (
        scripted_server(reply, reply, GOOD) as server,
        provider_of(server.base_url, max_retries=2) as provider,
    ):
        _, message = await answer(provider, "Hi")
    assert message.content == "Hello"
    assert len(server.requests) == 3


async def test_nobody_at_the_address_is_an_error() -> None:
    async with scripted_server(GOOD) as server:
        pass
    async with provider_of(server.base_url) as provider:
        with pytest.raises(InferenceFailed, match="Connection error"):
            await answer(provider, "Hi")


async def test_a_server_that_dies_in_the_middle_is_an_error_after_what_came() -> None:
    reply = stream(chunk("Hel"), end=False)
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        seen: list[str | None] = []
        with pytest.raises(InferenceFailed, match=r"the server: .*(closed|incomplete)"):
            await provider.stream(ask("Hi"), lambda one: seen.append(one.delta))
    assert seen == ["Hel"]
    assert len(server.requests) == 1  # an answer that has begun is not asked for again


async def test_an_answer_that_stops_without_a_reason_and_without_done_is_cut_off() -> None:
    reply = stream(chunk("Hel"))
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        with pytest.raises(InferenceFailed, match="cut off"):
            await answer(provider, "Hi")


async def test_done_alone_is_an_end() -> None:
    reply = stream(chunk("Hello"), DONE)
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        _, message = await answer(provider, "Hi")
    assert (message.content, message.finish_reason) == ("Hello", "stop")


async def test_a_reason_alone_is_an_end_whether_the_server_hangs_up_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("runstream.inference.openai_server.AFTER_END_S", 0.05)
    for reply in (
        stream(chunk("Hello"), chunk(finish="length")),
        stay_open(chunk("Hello"), chunk(finish="length")),
    ):
        async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
            _, message = await answer(provider, "Hi")
        assert (message.content, message.finish_reason) == ("Hello", "length")


async def test_usage_after_the_reason_is_waited_for() -> None:
    usage = data(
        '{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}'
    )
    reply = stream(chunk("Hello"), chunk(finish="stop"), usage, DONE)
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        chunks, message = await answer(provider, "Hi")
    assert message.usage == chunks[-1].usage == Usage(3, 2)
    assert [one.finish_reason for one in chunks] == [None, "stop"]


async def test_an_empty_reason_is_none_and_the_rest_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Taken for an end, it would cut off what a slow model says next.
    monkeypatch.setattr("runstream.inference.openai_server.AFTER_END_S", 0.0)
    reply = stream(chunk("Hel", finish=""), chunk("lo", finish=""), chunk(finish="length"), DONE)
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        _, message = await answer(provider, "Hi")
    assert (message.content, message.finish_reason) == ("Hello", "length")


async def test_of_several_answers_the_first_is_read() -> None:
    other = data('{"choices":[{"index":1,"delta":{"content":"Bye"},"finish_reason":"length"}]}')
    reply = stream(chunk("Hel"), other, chunk("lo"), chunk(finish="stop"), DONE)
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        _, message = await answer(provider, "Hi")
    assert (message.content, message.finish_reason) == ("Hello", "stop")


async def test_what_is_null_or_empty_says_nothing() -> None:
    reply = stream(
        data('{"choices":null,"usage":null}'),
        data('{"choices":[{"delta":null}]}'),
        data(""),
        chunk("Hello"),
        chunk(finish="stop"),
        data('{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":null}}'),
        DONE,
    )
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        _, message = await answer(provider, "Hi")
    assert (message.content, message.usage) == ("Hello", Usage(3, 0))


async def test_content_in_parts_is_thought_and_text() -> None:
    def parts(*found: Mapping[str, object]) -> bytes:
        return data(json.dumps({"choices": [{"index": 0, "delta": {"content": found}}]}))

    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}
    more = {"type": "thinking", "thinking": [{"type": "text", "text": "."}], "closed": True}
    reply = stream(
        parts(thinking),
        parts(more, {"type": "text", "text": "Hel"}),
        parts({"type": "reference", "reference_ids": [1]}),
        chunk("lo"),
        chunk(finish="stop"),
        DONE,
    )
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        _, message = await answer(provider, "Hi")
    assert (message.reasoning, message.content) == ("Hm.", "Hello")


@pytest.mark.parametrize("indent", [None, 2])
async def test_a_server_that_does_not_stream_answers_whole(indent: int | None) -> None:
    call = {"id": "a", "function": {"name": "weather", "arguments": "{}"}}
    told = {
        "role": "assistant",
        "content": "Hello",
        "reasoning_content": "Hm",
        "tool_calls": [call],
    }
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    choice = {"index": 0, "message": told, "finish_reason": "tool_calls"}
    body = json.dumps({"choices": [choice], "usage": usage}, indent=indent).encode()
    reply = stream(b"\n", body[:20], body[20:])
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        _, message = await answer(provider, "Hi")
    assert (message.reasoning, message.content, message.usage) == ("Hm", "Hello", Usage(3, 2))
    assert [call.name for call in message.tool_calls] == ["weather"]


async def test_an_error_that_is_no_event_is_told_in_its_words() -> None:
    reply = stream(chunk("Hel"), b'{"error": {"message": "out of memory"}}\n')
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        with pytest.raises(InferenceFailed, match="out of memory"):
            await answer(provider, "Hi")


async def test_a_refusal_in_words_is_the_answer() -> None:
    reply = stream(chunk(refusal="I can't."), chunk(finish="stop"), DONE)
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        _, message = await answer(provider, "Hi")
    assert message.content == "I can't."


@pytest.mark.parametrize(
    "bad",
    ["{", "3", '"text"', '{"choices":3}', '{"choices":[{"delta":{"content":7}}]}', '{"choices":['],
)
async def test_a_malformed_chunk_is_an_error_that_shows_it(bad: str) -> None:
    reply = stream(chunk("Hel"), data(bad), chunk("lo"), DONE)
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        with pytest.raises(InferenceFailed, match="a malformed chunk"):
            await answer(provider, "Hi")


async def test_a_chunk_that_is_no_utf_8_is_malformed() -> None:
    reply = stream(b'data: {"choices":[{"delta":{"content":"\xff"}}]}\n\n', DONE)
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        with pytest.raises(InferenceFailed, match="a malformed chunk"):
            await answer(provider, "Hi")


@pytest.mark.parametrize(
    "error",
    [
        '{"error":{"message":"out of memory"}}',
        '{"error":"out of memory"}',
        '{"error":["out of memory"]}',
        '{"object":"error","message":"out of memory","code":500}',
    ],
)
async def test_an_error_in_the_middle_is_told_in_its_words(error: str) -> None:
    reply = stream(chunk("Hel"), data(error), DONE)
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        with pytest.raises(InferenceFailed, match="out of memory"):
            await answer(provider, "Hi")


async def test_bytes_may_be_cut_anywhere_and_other_lines_say_nothing() -> None:
    whole = (
        b": a comment\nevent: chunk\nid: 7\nretry: 5\n"
        + json.dumps({"choices": [{"delta": {"content": "é😀"}}]}, ensure_ascii=False)
        .join(["data:", "\r\n\r\n"])
        .encode()
        + chunk(content="\u2028done\x85", finish="stop")
        + DONE
    )
    for size in (1, 2, 3, 7, 1000):
        parts = [whole[begin : begin + size] for begin in range(0, len(whole), size)]
        async with scripted_server(stream(*parts)) as server, provider_of(server.base_url) as there:
            _, message = await answer(there, "Hi")
        assert message.content == "é😀\u2028done\x85"


async def test_a_line_without_end_does_not_fill_the_memory() -> None:
    part = b"x" * (1024 * 1024)
    reply = stream(*[part] * (LINE_BYTES_MAX // len(part) + 1))
    async with scripted_server(reply) as server, provider_of(server.base_url) as provider:
        with pytest.raises(InferenceFailed, match="a line of more than"):
            await answer(provider, "Hi")


async def test_leaving_closes_the_connection() -> None:
    async with (
        scripted_server(stay_open(chunk("Hel"))) as server,
        provider_of(server.base_url) as provider,
    ):
        async for one in provider.stream_chunks(ask("Hi")):
            assert one.delta == "Hel"
            break
        async with asyncio.timeout(30):
            await server.left.wait()


async def test_a_slow_reader_slows_the_server_down() -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        part = chunk("x" * 10_000)
        await stream(end=False)(writer)
        while True:
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            await writer.drain()  # waits while the reader does
            sent += 1

    async with scripted_server(endless) as server, provider_of(server.base_url) as provider:
        reading = provider.stream_chunks(ask("Hi"))
        await anext(reading)
        before = -1
        async with asyncio.timeout(30):
            while before != sent:  # until the buffers on the way are full
                before = sent
                await asyncio.sleep(0.2)
        assert sent < 5000
        for _ in range(1000):
            assert (await anext(reading)).delta == "x" * 10_000
        await reading.aclose()
        assert sent > before


async def test_closing_the_provider_ends_an_answer_that_hangs() -> None:
    async with scripted_server(stay_open(chunk("Hel"))) as server:
        provider = provider_of(server.base_url)
        begun = asyncio.Event()
        task = asyncio.ensure_future(provider.stream(ask("Hi"), lambda _: begun.set()))
        await begun.wait()
        await provider.aclose()
        with pytest.raises(InferenceFailed, match="the provider was closed"):
            await task


@pytest.mark.parametrize("closed", ["stream", "provider"])
async def test_closing_ends_an_answer_that_has_just_been_asked_for(closed: str) -> None:
    async with scripted_server(stay_open()) as server, provider_of(server.base_url) as provider:
        await provider.load()
        reading = provider.stream_chunks(ask("Hi"))
        first = asyncio.ensure_future(anext(reading))
        await asyncio.sleep(0)  # the request's own task is there, and has not begun
        await (reading if closed == "stream" else provider).aclose()
        end = StopAsyncIteration if closed == "stream" else InferenceFailed
        async with asyncio.timeout(30):
            with pytest.raises(end):
                await first


@pytest.mark.parametrize("name", ["top_k", "min_p"])
async def test_options_that_the_api_lacks_are_refused_by_name(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"no option '{name}'.*extra_body"):
        provider_of("http://127.0.0.1:9").stream_chunks(ask("Hi"), {name: 1})
