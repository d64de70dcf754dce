# The Python of Blazen's page "Streaming", section "Streaming Local Inference", working, on both engines.
#
# Edits beside the import lines (`from blazen import ...`) and the models' paths:
# * `chunk: InferenceChunk` instead of `chunk: dict` in both callbacks, for type checkers: a chunk has `.get`,
#   so what the callbacks do stays as it is.
# * `stream = provider.stream_chunks(...)`: the page doesn't show where its `stream` comes from.
# * `main` and the functions around the page's blocks, which await at the top; the model is made on the spot.
"""Chunks by callback and by iterator, from mistral.rs and from llama.cpp."""

import asyncio
import tempfile
from pathlib import Path

from runstream.inference import (
    ChatMessage,
    InferenceChunk,
    LlamaCppOptions,
    LlamaCppProvider,
    MistralRsOptions,
    MistralRsProvider,
    Provider,
    TinyModel,
)


async def mistral_rs(model: Path) -> None:
    provider = MistralRsProvider(options=MistralRsOptions(model))

    def on_chunk(chunk: InferenceChunk) -> None:
        if delta := chunk.get("delta"):
            print(delta, end="", flush=True)
        if reason := chunk.get("finish_reason"):
            print(f"\n[finish: {reason}]")

    await provider.stream([ChatMessage.user("Tell me a joke")], on_chunk)
    await typed(provider)
    await provider.aclose()


async def llama_cpp(model: Path) -> None:
    provider = LlamaCppProvider(options=LlamaCppOptions(model_path=model))

    def on_chunk(chunk: InferenceChunk) -> None:
        if delta := chunk.get("delta"):
            print(delta, end="", flush=True)

    await provider.stream([ChatMessage.user("Hello!")], on_chunk)
    print()
    await typed(provider)
    await provider.aclose()


async def typed(provider: Provider) -> None:
    stream = provider.stream_chunks([ChatMessage.user("Tell me a joke")])
    async for chunk in stream:  # one InferenceChunkStream for both engines
        if chunk.delta:
            print(chunk.delta, end="", flush=True)
        if chunk.finish_reason:
            break
    print()


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = TinyModel().write_gguf(Path(folder) / "tiny.gguf")
        await mistral_rs(model)
        await llama_cpp(model)


if __name__ == "__main__":
    asyncio.run(main())
