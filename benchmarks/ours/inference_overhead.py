"""What our layer costs on top of an engine: the tiny model bare, and through a provider, in turn.

Bare is the engine's own way to stream (llama.cpp: its callback; mistral.rs: its iterator), with
nothing done per chunk. Ours is `async for chunk in provider.stream_chunks(...)` with nothing done
either, on an event loop that does nothing else. Both make the same tokens at temperature 0; a round
measures both, one after the other.

The engines have one thread, and the process one CPU: whatever our layer takes is missing to them. (With an
idle CPU beside it, a virtual machine measures how long that takes to wake up: an answer that nobody reads
takes longer then than one that somebody does.) `--all-cpus` measures mistral.rs as it comes: a thread for
each CPU, all of which wait for one another in busy loops, token by token, so that whatever else runs costs it
more than the time that this takes.
"""

import asyncio
import gc
import importlib
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measure import arguments, emit, max_rss_mib
from runstream.inference import (
    ChatMessage,
    LlamaCppOptions,
    LlamaCppProvider,
    MistralRsOptions,
    MistralRsProvider,
    Provider,
    TinyModel,
)

Bare = Callable[[int], int]
QUESTION = "count"


def bare_llama_cpp(model: Path) -> Bare:
    """llama.cpp as `LlamaCppProvider` loads it, without it."""
    library: Any = importlib.import_module("xllamacpp")
    params = library.CommonParams()
    params.model.path = str(model)
    params.n_ctx = 4096
    params.n_parallel = 1
    params.verbosity = -1
    params.cpuparams.n_threads = 1
    server = library.Server(params)

    def generate(tokens: int) -> int:
        seen = 0

        def on_chunk(chunk: dict[str, Any]) -> None:
            nonlocal seen
            seen += bool(chunk["choices"] and chunk["choices"][0]["delta"].get("content"))

        server.handle_chat_completions(
            {
                "messages": [{"role": "user", "content": QUESTION}],
                "max_tokens": tokens,
                "stream": True,
                "temperature": 0.0,
            },
            on_chunk,
        )
        return seen

    return generate


def bare_mistral_rs(model: Path) -> Bare:
    """mistral.rs as `MistralRsProvider` loads it, without it."""
    library: Any = importlib.import_module("mistralrs")
    runner = library.Runner(
        which=library.Which.GGUF(
            quantized_model_id=str(model.parent), quantized_filename=model.name
        ),
        max_seqs=1,
    )

    def generate(tokens: int) -> int:
        chunks = runner.send_chat_completion_request(
            library.ChatCompletionRequest(
                messages=[{"role": "user", "content": QUESTION}],
                model="default",
                max_tokens=tokens,
                stream=True,
                temperature=0.0,
            )
        )
        return sum(bool(chunk.choices[0].delta.content) for chunk in chunks)

    return generate


async def through(provider: Provider, tokens: int) -> int:
    """The same through a provider."""
    options = {"max_tokens": tokens, "temperature": 0.0}
    seen = 0
    async for chunk in provider.stream_chunks([ChatMessage.user(QUESTION)], options):
        seen += chunk.delta is not None
    return seen


async def compare(bare: Bare, provider: Provider, tokens: int, rounds: int) -> dict[str, float]:
    """Medians over the rounds of both, and of what ours took longer."""
    bare_us: list[float] = []
    ours_us: list[float] = []
    for number in range(-1, rounds):  # the first warms up
        gc.collect()
        begin = time.perf_counter()
        assert await asyncio.to_thread(bare, tokens) == tokens
        middle = time.perf_counter()
        assert await through(provider, tokens) == tokens
        if number >= 0:
            bare_us.append((middle - begin) / tokens * 1e6)
            ours_us.append((time.perf_counter() - middle) / tokens * 1e6)
    extra = [ours - alone for ours, alone in zip(ours_us, bare_us, strict=True)]
    median = statistics.median(bare_us)
    return {
        "bare_us": round(median, 1),
        "extra_us": round(statistics.median(extra), 1),
        "share": round(median / statistics.median(ours_us), 3),
    }


async def measure(folder: Path, tokens: int, rounds: int, *, all_cpus: bool) -> None:
    model = TinyModel().write_gguf(folder / "tiny.gguf")
    threads = None if all_cpus else 1
    mistral_rs = MistralRsProvider(options=MistralRsOptions(model, parallel=1, threads=threads))
    figures: dict[str, float] = {}
    # mistral.rs first through us, which keeps its log from standard output and says how many threads.
    await through(mistral_rs, 1)
    pairs: list[tuple[str, Provider, Bare]] = [("mistral_rs", mistral_rs, bare_mistral_rs(model))]
    if not all_cpus:
        options = LlamaCppOptions(model_path=model, parallel=1, threads=1)
        pairs.append(("llama_cpp", LlamaCppProvider(options=options), bare_llama_cpp(model)))
    for name, provider, bare in pairs:
        for field, value in (await compare(bare, provider, tokens, rounds)).items():
            figures[f"{name}_{field}"] = value
        await provider.aclose()
    emit(
        "inference_all_cpus" if all_cpus else "inference_overhead",
        **figures,
        max_rss_mib=max_rss_mib(),
    )


if __name__ == "__main__":
    parser = arguments(__doc__ or "")
    parser.add_argument("--all-cpus", action="store_true", help="mistral.rs, a thread for each CPU")
    args = parser.parse_args()
    if not args.all_cpus:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    size = (200, 3) if args.quick else (1000, 15)
    asyncio.run(measure(args.scratch, *size, all_cpus=args.all_cpus))
