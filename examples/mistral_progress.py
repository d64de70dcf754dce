# The Python of Mistral's page "Streaming Events", section "Progress Updates", working.
#
# Edits beside the import lines (`import mistralai.workflows as workflows` and
# `from mistralai.workflows.core.task import Task`):
# * `@workflows.activity(name=...)` is `@step(name=...)`: an activity is called a step here.
# * Everything from `process` on: the page publishes from an activity and leaves the workflow out.
"""Report progress during a long operation, and show it as it changes."""

import asyncio

from runstream import Task, pipeline, step


@step(name="Processing text with explicit control")
async def streaming_tokens_with_progress_activity(text: str) -> dict:
    """
    Example of explicit progress tracking with Task API.

    This pattern gives you full control over state updates and progress tracking.
    """
    words = text.split()
    initial_state = {"processed_words": [], "progress_idx": 0, "progress_total": len(words)}

    async with Task(type="progress-stream", state=initial_state) as task:
        state = task.state
        for i, word in enumerate(words):
            await task.update_state(
                {
                    "processed_words": state["processed_words"] + [word],
                    "progress_idx": i + 1,
                }
            )
            state = task.state
            await asyncio.sleep(0.1)

    final_state = task.state
    return {"processed_text": " ".join(final_state["processed_words"]), "token_count": len(words)}


@pipeline
async def process(text: str) -> dict:
    return await streaming_tokens_with_progress_activity(text)


async def main() -> None:
    handler = process.run("every word of this sentence takes a while")
    async for task in handler.tasks("progress-stream"):
        print(f"{task.state['progress_idx']} of {task.state['progress_total']}")
    print(await handler)


if __name__ == "__main__":
    asyncio.run(main())
