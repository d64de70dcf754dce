"""A scripted language model for the examples: it streams the same text every time, token by token.

It has the surfaces that the examples' pages use, so that their code stays as it is; a real client takes
its place by changing one import.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

STORY = (
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my "
    "purse, I thought I would sail about a little and see the watery part of the world."
)


async def tokens(text: str = STORY) -> AsyncIterator[str]:
    """The words of a text, with a moment between them."""
    for number, word in enumerate(text.split(" ")):
        await asyncio.sleep(0.001)
        yield word if number == 0 else " " + word


# --- the surface of a chat client with `choices` ---------------------------------------------------


@dataclass
class Delta:
    content: str


@dataclass
class Choice:
    delta: Delta


@dataclass
class Chunk:
    choices: list[Choice]


class ChatClient:
    async def stream(self, messages: list[Any]) -> AsyncIterator[Chunk]:
        async for token in tokens():
            yield Chunk([Choice(Delta(token))])


llm = ChatClient()


# --- the surface of a completion client ------------------------------------------------------------


@dataclass
class CompletionResponse:
    delta: str


class OpenAI:
    def __init__(self, model: str) -> None:
        self.model = model

    async def astream_complete(self, prompt: str) -> AsyncIterator[CompletionResponse]:
        async def responses() -> AsyncIterator[CompletionResponse]:
            async for token in tokens():
                yield CompletionResponse(token)

        return responses()


# --- the surface of a client whose responses are streams of events ---------------------------------


@dataclass
class ResponseEvent:
    type: str
    delta: str = ""


@dataclass
class ResponseStream:
    """`async with client.responses.stream(...) as stream: async for event in stream:`"""

    input: str
    opened: bool = field(default=False)

    async def __aenter__(self) -> Self:
        self.opened = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.opened = False

    async def __aiter__(self) -> AsyncIterator[ResponseEvent]:
        async for token in tokens(f"The user asks: {self.input}"):
            yield ResponseEvent("reasoning", token)
        yield ResponseEvent("reasoning.done")
        async for token in tokens(f"You said {self.input!r}, and that is that."):
            yield ResponseEvent("text", token)


class Responses:
    def stream(self, *, input: str) -> ResponseStream:  # noqa: A002 - as the clients call it
        return ResponseStream(input)


class ResponsesClient:
    responses = Responses()


responses_client = ResponsesClient()
