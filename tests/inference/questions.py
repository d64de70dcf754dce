"""What the tests ask the tiny model, and how they look at its answers."""

from __future__ import annotations

from typing import Any

from runstream.inference import ChatMessage, InferenceChunk, Provider

WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def ask(text: str) -> list[ChatMessage]:
    return [ChatMessage.user(text)]


async def answer(
    provider: Provider, text: str, **options: Any
) -> tuple[list[InferenceChunk], ChatMessage]:
    """The chunks of an answer, and its message."""
    chunks: list[InferenceChunk] = []
    message = await provider.stream(ask(text), chunks.append, options)
    return chunks, message
