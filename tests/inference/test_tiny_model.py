from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from runstream.inference import (
    ChatMessage,
    LlamaCppOptions,
    LlamaCppProvider,
    MistralRsOptions,
    MistralRsProvider,
    Provider,
    Script,
    TinyModel,
)


def test_the_same_scripts_make_the_same_files(gguf: Path, tmp_path: Path) -> None:
    assert TinyModel().write_gguf(tmp_path / "again.gguf").read_bytes() == gguf.read_bytes()


def test_the_files_are_small(gguf: Path, safetensors: Path) -> None:
    assert gguf.stat().st_size < 1_000_000
    assert sum(file.stat().st_size for file in safetensors.iterdir()) < 1_000_000


def test_safetensors_say_where_each_tensor_lies(safetensors: Path) -> None:
    data = (safetensors / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    ends = [0, *(tensor["data_offsets"][1] for tensor in header.values())]
    assert [tensor["data_offsets"][0] for tensor in header.values()] == ends[:-1]
    assert 8 + length + ends[-1] == len(data)


def test_a_piece_in_two_places_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        TinyModel([Script(None, ("one", " two", "one"))])


def test_a_lone_newline_is_refused_since_it_is_what_asks() -> None:
    with pytest.raises(ValueError, match="twice"):
        TinyModel([Script(None, ("one", "\n"))])


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Hi!", "Hello there, I am a tiny model."),
        ("Tell me a joke", "Why did the token cross the stream? To be next!"),
        ("think, then joke", "Why did the token cross the stream? To be next!"),
        ("a joke about an emoji", "Smile 😀 café done"),
        ("x " * 150 + "emoji" + " x" * 150, "Smile 😀 café done"),
    ],
)
async def test_the_newest_cue_decides(provider: Provider, prompt: str, answer: str) -> None:
    chunks: list[object] = []
    message = await provider.stream([ChatMessage.user(prompt)], chunks.append)
    assert message.content == answer


@pytest.mark.parametrize("kind", ["llama.cpp", "mistral.rs gguf", "mistral.rs safetensors"])
async def test_a_wider_model_says_the_same(kind: str, tmp_path: Path) -> None:
    model = TinyModel(feed_forward=1024)
    provider: Provider
    if kind == "llama.cpp":
        path = model.write_gguf(tmp_path / "wide.gguf")
        assert path.stat().st_size > 2_000_000
        provider = LlamaCppProvider(options=LlamaCppOptions(model_path=path))
    elif kind == "mistral.rs gguf":
        path = model.write_gguf(tmp_path / "wide.gguf")
        provider = MistralRsProvider(options=MistralRsOptions(path, threads=1))
    else:
        path = model.write_safetensors(tmp_path / "wide")
        provider = MistralRsProvider(options=MistralRsOptions(path))
    async with provider:
        await provider.load()
        message = await provider.stream([ChatMessage.user("a joke")], lambda _: None)
    assert message.content == "Why did the token cross the stream? To be next!"
