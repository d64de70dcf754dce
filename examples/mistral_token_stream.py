# The Python of Mistral's page "Streaming Events", section "Token Streaming (LLM)", working.
#
# Edits beside the import lines (`import mistralai.workflows as workflows` and
# `from mistralai.workflows.core.task import Task`):
# * `@workflows.activity()` is `@step`: an activity is what every other system, and this one, calls a step.
# * `llm` comes from `scripted_llm`, which streams a fixed text: the page doesn't say where it comes from.
# * Everything from `chat` on: the page publishes from an activity and leaves the workflow out.
"""Stream an LLM's tokens as the growing state of a task."""

import asyncio

from scripted_llm import llm

from runstream import Task, pipeline, step


@step
async def chat_activity(messages: list) -> dict:
    initial_state = {"tokens": []}

    async with Task(type="token-stream", state=initial_state) as task:
        async for chunk in llm.stream(messages):
            token = chunk.choices[0].delta.content
            if token:
                await task.update_state({"tokens": task.state["tokens"] + [token]})

    return {"response": "".join(task.state["tokens"])}


@pipeline
async def chat(messages: list) -> dict:
    return await chat_activity(messages)


async def main() -> None:
    handler = chat.run([{"role": "user", "content": "Tell me about the sea."}])
    shown = 0
    async for task in handler.tasks("token-stream"):
        tokens = task.state["tokens"]
        print("".join(tokens[shown:]), end="", flush=True)
        shown = len(tokens)
    result = await handler
    print(f"\n{shown} tokens; the whole response has {len(result['response'])} characters")


if __name__ == "__main__":
    asyncio.run(main())
