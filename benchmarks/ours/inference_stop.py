"""What an engine still makes after its reader has left: tokens of milliseconds, and the tiny model's own.

The reader leaves its loop at a token of an endless answer. llama.cpp counts what it has made;
mistral.rs counts nothing, so that its tokens are the CPU time it takes from then on, in those of a token.
The larger model is the tiny one with a layer that costs time and changes nothing.

One is what the engines allow: nobody can stop the token that one is making.
"""

import asyncio
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import arguments, emit
from runstream.inference import (
    ChatMessage,
    LlamaCppOptions,
    LlamaCppProvider,
    MistralRsOptions,
    MistralRsProvider,
    Provider,
    TinyModel,
)

COUNTER = "llamacpp:tokens_predicted_total "
LEAVES_AT = 25
# A wide layer of zeros: a token takes 2 to 10 ms.
FEED_FORWARD = 30_000


async def leave(provider: Provider) -> list[float]:
    """Leave at a token; this process's CPU time at each one."""
    times: list[float] = []
    options = {"max_tokens": 3000, "temperature": 0.0}
    async for _ in provider.stream_chunks([ChatMessage.user("count")], options):
        times.append(time.process_time())
        if len(times) == LEAVES_AT:
            break
    return times


def tokens_generated(provider: LlamaCppProvider) -> int:
    """llama.cpp's own count, which grows when a generation is over."""
    local: Any = provider._engine  # noqa: SLF001 - asks the engine itself
    lines = str(local._state._engine.handle_metrics()).splitlines()  # noqa: SLF001
    return next(int(line.split()[1]) for line in lines if line.startswith(COUNTER))


async def llama_cpp_after(model: Path, rounds: int) -> float:
    """The median of the tokens that llama.cpp makes beyond the one at which its reader leaves."""
    after: list[int] = []
    options = LlamaCppOptions(model_path=model, parallel=1, threads=1)
    async with LlamaCppProvider(options=options) as provider:
        await provider.load()
        for _ in range(rounds):
            before = tokens_generated(provider)
            await leave(provider)
            while (generated := tokens_generated(provider)) == before:  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.001)
            after.append(generated - before - LEAVES_AT)
    return statistics.median(after)


async def at_rest() -> float:
    """This process's CPU time once it takes no more."""
    taken = time.process_time()
    while True:
        await asyncio.sleep(0.1)
        before, taken = taken, time.process_time()
        if taken - before < 0.001:
            return taken


async def mistral_rs_after(model: Path, rounds: int) -> float:
    """The same of mistral.rs, by what it costs."""
    after: list[int] = []
    async with MistralRsProvider(
        options=MistralRsOptions(model, parallel=1, threads=1)
    ) as provider:
        for number in range(-1, rounds):  # the first warms up
            first, *_, left = await leave(provider)
            token_s = (left - first) / (LEAVES_AT - 1)
            if number >= 0:
                after.append(round((await at_rest() - left) / token_s))
    return statistics.median(after)


async def measure(folder: Path, rounds: int) -> dict[str, float]:
    tiny = TinyModel().write_gguf(folder / "tiny.gguf")
    wide = TinyModel(feed_forward=FEED_FORWARD).write_gguf(folder / "wide.gguf")
    return {
        "llama_cpp_after": await llama_cpp_after(wide, rounds),
        "mistral_rs_after": await mistral_rs_after(wide, rounds),
        "llama_cpp_tiny_after": await llama_cpp_after(tiny, rounds),
    }


if __name__ == "__main__":
    args = arguments(__doc__ or "").parse_args()
    emit("inference_stop", **asyncio.run(measure(args.scratch, 5 if args.quick else 30)))
