"""What goes wrong with models, on the real engines."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.questions import answer
from runstream.errors import ExtraMissing, InferenceFailed, InvalidInput
from runstream.inference import (
    LlamaCppOptions,
    LlamaCppProvider,
    MistralRsOptions,
    MistralRsProvider,
    OpenAIProvider,
    Provider,
)


def llama(path: Path) -> Provider:
    return LlamaCppProvider(options=LlamaCppOptions(model_path=path))


def mistral(path: Path) -> Provider:
    return MistralRsProvider(options=MistralRsOptions(path))


both = pytest.mark.parametrize("make", [llama, mistral])


@both
def test_a_missing_file_is_named(make: Callable[[Path], Provider], tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"there is no model file .*nowhere\.gguf"):
        make(tmp_path / "nowhere.gguf")


@both
def test_a_file_that_is_no_model_is_told(make: Callable[[Path], Provider], tmp_path: Path) -> None:
    path = tmp_path / "notes.gguf"
    path.write_text("Dear diary")
    with pytest.raises(InvalidInput, match=r"notes\.gguf is no GGUF file"):
        make(path)


def test_a_folder_is_no_gguf_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        llama(tmp_path)


@both
async def test_loading_ahead_makes_the_first_answer_quick_and_tells_faults_early(
    make: Callable[[Path], Provider], gguf: Path, tmp_path: Path
) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(gguf.read_bytes()[:1000])
    provider = make(path)
    with pytest.raises(InferenceFailed, match="could not load"):
        await provider.load()
    path.write_bytes(gguf.read_bytes())
    await provider.load()
    await provider.load()
    path.unlink()  # it is in memory
    _, message = await answer(provider, "Hi")
    assert message.finish_reason == "stop"
    await provider.aclose()
    with pytest.raises(InferenceFailed, match="the provider was closed"):
        await provider.load()


@both
async def test_a_model_that_is_cut_off_fails_with_the_engine_s_words(
    make: Callable[[Path], Provider], gguf: Path, tmp_path: Path
) -> None:
    path = tmp_path / "half.gguf"
    path.write_bytes(gguf.read_bytes()[: gguf.stat().st_size // 2])
    provider = make(path)
    for _ in range(2):  # it is tried again: the file may be there by then
        with pytest.raises(InferenceFailed, match=r"could not load .*half\.gguf: \w"):
            await answer(provider, "Hi")
    path.write_bytes(gguf.read_bytes())
    _, message = await answer(provider, "Hi")
    assert message.finish_reason == "stop"
    await provider.aclose()


async def test_a_folder_without_a_model_fails_with_the_engine_s_words(tmp_path: Path) -> None:
    provider = mistral(tmp_path)
    with pytest.raises(InferenceFailed, match=r"could not load .*tokenizer\.json") as failed:
        await answer(provider, "Hi")
    assert "candle" not in str(failed.value)  # words, not its stack
    await provider.aclose()


@pytest.mark.parametrize("model", ["nope", "a/b/c", "../nope", "org/mod el", ""])
def test_a_model_that_is_no_path_and_no_id_is_refused(model: str) -> None:
    with pytest.raises(InvalidInput):
        MistralRsProvider(options=MistralRsOptions(model))


async def test_a_prompt_longer_than_the_context_fails_with_the_engine_s_words(
    provider: Provider,
) -> None:
    with pytest.raises(InferenceFailed, match="4096") as failed:
        await answer(provider, "x " * 5000)
    if isinstance(provider, OpenAIProvider):
        assert failed.value.status == 400
    _, message = await answer(provider, "Hi")
    assert message.finish_reason == "stop"


async def test_an_answer_that_fills_the_context_ends_for_its_length(engine: Provider) -> None:
    _, message = await answer(engine, "x " * 1900 + "count")  # most of it: 4 000 tokens take long
    assert message.finish_reason == "length"
    assert message.usage is not None
    assert message.usage.total_tokens in range(4090, 4100)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 1}, r"no option 'seed'.*MistralRsOptions\(seed"),
        ({"tool_choice": "required"}, "'auto' and 'none'"),
    ],
)
def test_mistral_rs_refuses_by_name_what_it_does_not_have(
    gguf: Path, options: dict[str, object], words: str
) -> None:
    tool = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(InvalidInput, match=words):
        mistral(gguf).stream_chunks(
            [{"role": "user", "content": "Hi"}], {"tools": [tool], **options}
        )


def test_sizes_below_one_are_refused(gguf: Path) -> None:
    for options in (
        LlamaCppOptions(model_path=gguf, context_length=0),
        LlamaCppOptions(model_path=gguf, parallel=0),
        LlamaCppOptions(model_path=gguf, threads=0),
    ):
        with pytest.raises(InvalidInput, match="is at least 1, not 0"):
            LlamaCppProvider(options=options)
    for other in (MistralRsOptions(gguf, parallel=0), MistralRsOptions(gguf, threads=0)):
        with pytest.raises(InvalidInput, match="is at least 1, not 0"):
            MistralRsProvider(options=other)


@both
async def test_a_process_that_can_begin_no_thread_says_so_and_closes_at_once(
    make: Callable[[Path], Provider], gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = make(gguf)

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with pytest.raises(InferenceFailed, match="can't start new thread"):
            await provider.load()
    async with asyncio.timeout(10):  # it waits three times as long for a generation
        await provider.aclose()


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("xllamacpp", "llama-cpp"),
        ("mistralrs", "mistralrs"),
        ("huggingface_hub", "mistralrs"),
        ("openai", "openai"),
    ],
)
def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, gguf: Path, module: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    make: dict[str, Callable[[], object]] = {
        "xllamacpp": lambda: llama(gguf),
        "mistralrs": lambda: mistral(gguf),
        "huggingface_hub": lambda: mistral(Path("org/model")),
        "openai": lambda: OpenAIProvider(base_url="http://127.0.0.1:9"),
    }
    with pytest.raises(ExtraMissing, match=rf"pip install 'runstream\[{extra}\]'"):
        make[module]()
