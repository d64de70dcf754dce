"""Two LLM generations in parallel: one run, told apart by their correlation ids."""

import asyncio

from runstream import connect, publish, start_run

ANSWERS = {"gen-1": "Call me Ishmael.", "gen-2": "It was the best of times."}


async def generate(name: str, text: str) -> None:
    """Stands for a model: it produces a word at a time."""
    for index, word in enumerate(text.split()):
        publish({"text": f"{word} "}, kind="token", correlation_id=name, index=index)
        await asyncio.sleep(0.01)


async def main() -> None:
    async with start_run("two-generations") as run:
        await asyncio.gather(*(generate(name, text) for name, text in ANSWERS.items()))

    async with connect() as streams:
        for name, text in ANSWERS.items():
            tokens = streams.subscribe(run.run_id, kinds="token", correlation_ids=name)
            words = [record.data["text"] async for record in tokens if record.kind == "token"]
            print(f"{name}: {''.join(words)}")
            assert "".join(words).strip() == text


if __name__ == "__main__":
    asyncio.run(main())
