"""Models by their id: fetched from a hub of this machine, by processes of their own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from inference.hub_server import BLOCK_BYTES, COMMIT, ENDLESS_BLOCKS, Hub, serving
from runstream.inference import TinyModel

JOKE = "Why did the token cross the stream? To be next!"

ANSWER = """
    async def main():
        provider = MistralRsProvider(options=MistralRsOptions(MODEL, threads=1))
        async with provider:
            async for chunk in provider.stream_chunks([ChatMessage.user("Tell me a joke")]):
                print(chunk.delta or "", end="|")
"""
FAIL = """
    async def main():
        provider = MistralRsProvider(options=MistralRsOptions(MODEL, threads=1))
        for _ in range(2):
            try:
                await provider.load()
            except InferenceFailed as error:
                print(error)
"""
# The loop must be free while the model is fetched: it is this request that lets the file go.
GO = """
    def let_go():
        urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/go", data=b"", timeout=60).close()
"""


@pytest.fixture
def hub(safetensors: Path) -> Hub:
    """Our tiny model, beside what else such repositories hold."""
    files = {file.name: file.read_bytes() for file in sorted(safetensors.iterdir())}
    others = ("README.md", "pytorch_model.bin", "consolidated.safetensors", "onnx/config.json")
    return Hub({**files, **dict.fromkeys(others, b"not wanted")})


def run(
    program: str, url: str, home: Path, model: str = "org/tiny", **more: str
) -> subprocess.CompletedProcess[str]:
    """Run `main` of a program that uses the hub at `url`, and keeps what it fetches in `home`."""
    begin = f"""
        import asyncio, os, sys, threading, urllib.request
        from runstream.errors import InferenceFailed
        from runstream.inference import *
        MODEL = {model!r}
    """
    ours = {"HF_ENDPOINT": url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1,localhost", **more}
    others = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "\n".join(map(textwrap.dedent, (begin, program, "asyncio.run(main())"))),
        ],
        env=others | ours,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_model_of_the_hub_is_fetched_streams_and_is_kept(hub: Hub, tmp_path: Path) -> None:
    with serving(hub):
        first = run(ANSWER, hub.url, tmp_path)
        assert first.stdout.replace("|", "") == JOKE, first.stderr
        assert first.stdout.count("|") > 5
        assert sorted(hub.sent) == [
            (name, None)
            for name in (
                "config.json",
                "generation_config.json",
                "model.safetensors",
                "tokenizer.json",
                "tokenizer_config.json",
            )
        ]
        hub.sent.clear()
        assert run(ANSWER, hub.url, tmp_path).stdout == first.stdout
        assert hub.sent == []
    assert (tmp_path / "hub/models--org--tiny/snapshots" / COMMIT / "model.safetensors").is_file()
    # Now the hub is gone, and then nobody asks for it.
    assert run(ANSWER, hub.url, tmp_path).stdout == first.stdout
    assert run(ANSWER, hub.url, tmp_path, HF_HUB_OFFLINE="1").stdout == first.stdout


def test_a_fetch_that_breaks_off_goes_on_where_it_was(tmp_path: Path) -> None:
    # More than two blocks: a block that is not whole is fetched again.
    folder = TinyModel(feed_forward=15_000).write_safetensors(tmp_path / "model")
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert len(files["model.safetensors"]) in range(2 * BLOCK_BYTES, 4 * BLOCK_BYTES)
    hub = Hub(files, breaks_off="model.safetensors")
    with serving(hub):
        done = run(ANSWER, hub.url, tmp_path)
    assert done.stdout.replace("|", "") == JOKE, done.stderr
    asked = [asked for name, asked in hub.sent if name == "model.safetensors"]
    assert asked == [None, f"bytes={BLOCK_BYTES}-"]


def test_the_loop_runs_while_a_model_is_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.held = "model.safetensors"
    program = """
        async def main():
            provider = MistralRsProvider(options=MistralRsOptions(MODEL, threads=1))
            async with provider:
                loading = asyncio.create_task(provider.load())
                await asyncio.to_thread(let_go)
                await loading
                print("loaded")
    """
    with serving(hub):
        done = run(textwrap.dedent(GO) + textwrap.dedent(program), hub.url, tmp_path)
    assert done.stdout == "loaded\n", done.stderr


@pytest.mark.parametrize("how", ["closed", "end", "interrupt"])
def test_a_fetch_ends_with_its_provider_and_with_the_process(
    how: str, hub: Hub, tmp_path: Path
) -> None:
    hub.endless = "model.safetensors"
    program = f"""
        async def main():
            provider = MistralRsProvider(options=MistralRsOptions(MODEL, threads=1))
            loading = asyncio.create_task(provider.load())
            await asyncio.to_thread(let_go)
            match {how!r}:
                case "closed":
                    await provider.aclose()
                    try:
                        await loading
                    except InferenceFailed as error:
                        print(error)
                case "interrupt":
                    raise KeyboardInterrupt
    """
    with serving(hub):
        done = run(textwrap.dedent(GO) + textwrap.dedent(program), hub.url, tmp_path)
    assert done.returncode == (-2 if how == "interrupt" else 0), done.stderr
    assert done.stdout == ("mistral.rs: the provider was closed\n" if how == "closed" else "")
    assert hub.blocks < ENDLESS_BLOCKS


@pytest.mark.parametrize(
    ("model", "words"), [("org/none", "Repository Not Found"), ("org/gated", "Ask for access")]
)
def test_what_the_hub_does_not_give_fails_with_its_words(
    model: str, words: str, hub: Hub, tmp_path: Path
) -> None:
    with serving(hub):
        done = run(FAIL, hub.url, tmp_path, model)
    assert done.stdout.count(f"{model} could not be fetched from the Hugging Face hub: ") == 2
    assert done.stdout.count(words) == 2, done.stderr
    assert done.returncode == 0


def test_no_network_and_no_model_is_told(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # but does not listen
        done = run(FAIL, f"http://127.0.0.1:{nobody.getsockname()[1]}", tmp_path)
    assert done.stdout.count("org/tiny could not be fetched from the Hugging Face hub: ") == 2
    assert done.stdout.count("Connection refused") == 2, done.stderr
    offline = run(FAIL, "http://127.0.0.1:9", tmp_path, HF_HUB_OFFLINE="1")
    assert offline.stdout.count("HF_HUB_OFFLINE") == 2, offline.stderr
