"""How long a generation's first token takes from the engine to a subscriber over HTTP (SSE).

llama.cpp with the tiny model, in a step's place: this process publishes to a server in another one, on
SQLite with FULL sync, and follows the run there as a browser does. The time begins when the engine hands
out the token. Then two generations write into one run at the same time: how many of its records follow one
of the other generation.
"""

import asyncio
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks import disk
from benchmarks.measure import arguments, emit, percentile
from benchmarks.served import serving
from runstream import connect, start_run
from runstream.inference import (
    ChatMessage,
    LlamaCppOptions,
    LlamaCppProvider,
    TinyModel,
    stream_to_run,
)
from runstream.inference.hand_over import HandOver
from runstream.inference.openai_form import piece_of

# When the engine handed out the first text of the present generation.
engine_s: list[float] = []


def watch_engine() -> None:
    """Take the time in the engine's thread, where it hands over a chunk."""
    put = HandOver.put

    def timed(self: HandOver, chunk: Any) -> bool:
        if not engine_s and (piece := piece_of(chunk)) is not None and piece.content:
            engine_s.append(time.perf_counter())
        return put(self, chunk)

    HandOver.put = timed  # type: ignore[method-assign] # the benchmark listens in


async def first_token_s(
    session: aiohttp.ClientSession, url: str, provider: LlamaCppProvider
) -> float:
    """From the engine's first token to the same token in the subscriber."""
    engine_s.clear()
    async with start_run("first-token", url=url) as run:
        address = f"{url}/v1/runs/{run.run_id}/events"
        async with session.get(address, headers={"Accept": "text/event-stream"}) as response:
            generating = asyncio.ensure_future(
                stream_to_run(
                    provider.stream_chunks([ChatMessage.user("count")], {"max_tokens": 20})
                )
            )
            async for line in response.content:
                if line.startswith(b"event: token"):
                    arrived = time.perf_counter()
                    break
            else:
                raise SystemExit("the stream ended without a token")
            await generating
    return arrived - engine_s[0]


async def interleaved(url: str, provider: LlamaCppProvider, tokens: int) -> float:
    """Of the tokens of two generations in one run: the share that comes after one of the other."""
    async with start_run("two", url=url) as run:
        await asyncio.gather(
            *(
                stream_to_run(
                    provider.stream_chunks([ChatMessage.user("count")], {"max_tokens": tokens}),
                    correlation_id=name,
                )
                for name in ("a", "b")
            )
        )
    async with connect(url) as streams:
        records = streams.subscribe(run.run_id, kinds="token")
        names = [record.correlation_id async for record in records if record.kind == "token"]
    if len(names) != 2 * tokens:
        raise SystemExit(f"{len(names)} of {2 * tokens} tokens are in the stream")
    return sum(before != after for before, after in pairwise(names)) / len(names)


async def measure(url: str, folder: Path, rounds: int) -> dict[str, float]:
    model = TinyModel().write_gguf(folder / "tiny.gguf")
    watch_engine()
    options = LlamaCppOptions(model_path=model, parallel=2, threads=1)
    async with LlamaCppProvider(options=options) as provider, aiohttp.ClientSession() as session:
        times = [await first_token_s(session, url, provider) * 1000 for _ in range(rounds + 3)][3:]
        share = await interleaved(url, provider, 10 * rounds)
    return {
        "interleaved": round(share, 3),
        "p50_ms": round(statistics.median(times), 2),
        "p99_ms": round(percentile(times, 99), 2),
    }


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    with serving(f"sqlite:{args.scratch / 'events.db'}") as served:
        figures = asyncio.run(measure(served.url, args.scratch, 5 if args.quick else 100))
    emit("inference_first_token", **figures, **disk.probe(args.scratch))


if __name__ == "__main__":
    main()
