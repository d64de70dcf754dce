"""A workflow with a local model: its reasoning, a tool that it calls, and its answer, as a stream.

The model is the only thing to change: any GGUF file, mistral.rs instead of llama.cpp, or a server.
"""

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from runstream import Context, Event, StartEvent, StopEvent, Workflow, step
from runstream.inference import (
    ChatMessage,
    LlamaCppOptions,
    LlamaCppProvider,
    Provider,
    TinyModel,
    stream_to_run,
)

GET_WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city, now.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


class Question(Event):
    messages: list[ChatMessage]


class ToolWanted(Event):
    messages: list[ChatMessage]


class Assistant(Workflow):
    def __init__(self, provider: Provider) -> None:
        super().__init__("assistant")
        self.provider = provider

    @step
    async def ask(self, ctx: Context, ev: StartEvent) -> Question:
        return Question(messages=[ChatMessage.user(ev.question)])

    @step
    async def think(self, ctx: Context, ev: Question) -> ToolWanted | StopEvent:
        chunks = self.provider.stream_chunks(ev.messages, {"tools": [GET_WEATHER]})
        message = await stream_to_run(chunks)
        if message.tool_calls:
            return ToolWanted(messages=[*ev.messages, message])
        return StopEvent(result=message.content)

    @step
    async def use_tools(self, ctx: Context, ev: ToolWanted) -> Question:
        results = [
            ChatMessage.tool(f"{call.decode_arguments()['city']}: clear", tool_call_id=call.id)
            for call in ev.messages[-1].tool_calls
        ]
        return Question(messages=[*ev.messages, *results])


async def main(folder: Path) -> None:
    model = TinyModel().write_gguf(folder / "tiny.gguf")
    provider: Provider = LlamaCppProvider(options=LlamaCppOptions(model_path=model))

    for question in ("Please think", "How is the weather in Paris?"):
        handler = Assistant(provider).run(question=question)
        async for record in handler.subscribe(kinds=("reasoning", "token", "message")):
            match record.kind:
                case "reasoning" | "token":
                    print(f"[{record.kind}] {record.data['text']!r}")
                case "message":
                    print(f"[{record.data['finish_reason']}] {record.data['tool_calls']}")
                case _:
                    pass  # the end of the run passes every filter
        print(await handler)
    await provider.aclose()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(main(Path(made)))
