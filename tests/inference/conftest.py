"""The tiny model's files, and a provider of each kind that runs it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runstream import process
from runstream.inference import (
    LlamaCppOptions,
    LlamaCppProvider,
    MistralRsOptions,
    MistralRsProvider,
    OpenAIProvider,
    Provider,
    TinyModel,
)


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel().write_gguf(tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def safetensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyModel().write_safetensors(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def llama_server(gguf: Path) -> Iterator[str]:
    """The base URL of llama.cpp's own HTTP server, with the tiny model."""
    xllamacpp: Any = pytest.importorskip("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.n_ctx = 4 * 4096
    params.n_parallel = 4
    params.verbosity = -1
    params.endpoint_metrics = True
    server = xllamacpp.Server(params)
    server.handle_metrics()  # freeing one that has never answered can hang
    yield f"{server.listening_address}/v1"
    del server


def llama_cpp(request: pytest.FixtureRequest) -> Provider:
    gguf: Path = request.getfixturevalue("gguf")
    return LlamaCppProvider(options=LlamaCppOptions(model_path=gguf))


def mistral_gguf(request: pytest.FixtureRequest) -> Provider:
    gguf: Path = request.getfixturevalue("gguf")
    return MistralRsProvider(options=MistralRsOptions(gguf))


def mistral_safetensors(request: pytest.FixtureRequest) -> Provider:
    safetensors: Path = request.getfixturevalue("safetensors")
    return MistralRsProvider(options=MistralRsOptions(safetensors))


def openai_server(request: pytest.FixtureRequest) -> Provider:
    return OpenAIProvider(base_url=request.getfixturevalue("llama_server"), max_retries=0)


PROVIDERS: dict[str, Callable[[pytest.FixtureRequest], Provider]] = {
    "llama.cpp": llama_cpp,
    "mistral.rs gguf": mistral_gguf,
    "mistral.rs safetensors": mistral_safetensors,
    "openai": openai_server,
}


@pytest.fixture(params=PROVIDERS)
async def provider(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    """Each kind of provider in turn."""
    made = PROVIDERS[request.param](request)
    await made.load()  # here, where no test minds that it holds the loop
    yield made
    await made.aclose()


@pytest.fixture(params=["llama.cpp", "mistral.rs gguf"])
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Provider]:
    """Each engine that runs in this process."""
    made = PROVIDERS[request.param](request)
    await made.load()  # here, where no test minds that it holds the loop
    yield made
    await made.aclose()


@pytest.fixture
def memory_url() -> Iterator[str]:
    """A log that ends with the test."""
    yield "memory:"
    process.close_publishers()
