"""llama.cpp in this process, through xllamacpp: any GGUF file."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ..errors import InferenceFailed
from .chunk_stream import InferenceChunkStream, OnChunk, run_callback
from .hand_over import HandOver
from .local_engine import LocalEngine, check_sizes, import_extra, require_extra
from .message import ChatMessage, Messages, check_messages
from .model_file import check_gguf, read_ahead
from .openai_form import piece_of, request_of
from .options import Options, check_options

_MODULE: Final = "xllamacpp"
_EXTRA: Final = "llama-cpp"
# What a chunk has that is only a word of how far the prompt is read.
_PROGRESS: Final = "prompt_progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaCppOptions:
    """How a model is loaded.

    Args:
        model_path: a GGUF file.
        context_length: tokens of prompt and answer together, for each generation.
        parallel: how many generations run at once; more of them wait for their turn.
        gpu_layers: how many layers go to the GPU if there is one; None: as many as fit.
        threads: of the CPU; None: as llama.cpp thinks best.
        chat_template: a Jinja template instead of the model's own.
    """

    model_path: str | Path
    context_length: int = 4096
    parallel: int = 2
    gpu_layers: int | None = None
    threads: int | None = None
    chat_template: str | None = None


class LlamaCppProvider:
    """A `Provider` that runs a GGUF model with llama.cpp.

    Making one is cheap: the model is loaded by the first generation, in its thread. llama.cpp itself can't
    be paused: with a slow reader it runs ahead, as far as `max_tokens` and the context allow.

    Raises:
        ExtraMissing: xllamacpp is not installed.
        InvalidInput: there is no such file, or it is no GGUF model.
    """

    def __init__(self, *, options: LlamaCppOptions) -> None:
        require_extra(_MODULE, _EXTRA)
        check_gguf(Path(options.model_path))
        check_sizes(options, "context_length", "parallel", "threads")
        self._engine = LocalEngine("llama.cpp", lambda _is_closed: _load(options), piece_of)

    async def stream(
        self, messages: Messages, on_chunk: OnChunk, options: Options = None
    ) -> ChatMessage:
        """See `Provider.stream`."""
        return await run_callback(self.stream_chunks(messages, options), on_chunk)

    def stream_chunks(self, messages: Messages, options: Options = None) -> InferenceChunkStream:
        """See `Provider.stream_chunks`."""
        request = request_of(
            check_messages(messages), check_options(options, "llama.cpp", {}), reasoning=True
        )
        # Shows that the prompt is being read, so that a long one can be stopped, too.
        request["return_progress"] = True
        return InferenceChunkStream(
            lambda: self._engine.begin(lambda server, to: _generate(server, request, to))
        )

    async def load(self) -> None:
        """See `Provider.load`."""
        await self._engine.load()

    async def aclose(self) -> None:
        """See `Provider.aclose`."""
        await self._engine.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


def _load(options: LlamaCppOptions) -> Any:
    engine: Any = import_extra(_MODULE, _EXTRA)
    params = engine.CommonParams()
    params.model.path = str(options.model_path)
    # llama.cpp divides its context between the generations.
    params.n_ctx = options.context_length * options.parallel
    params.n_parallel = options.parallel
    if options.gpu_layers is not None:
        params.n_gpu_layers = options.gpu_layers
    if options.threads is not None:
        params.cpuparams.n_threads = options.threads
    if options.chat_template is not None:
        params.chat_template = options.chat_template
    params.verbosity = -1  # its log would go to our terminal
    params.endpoint_metrics = True
    # The library also serves HTTP on a port of this machine; only this process gets in.
    params.api_keys = [secrets.token_urlsafe()]
    read_ahead(Path(options.model_path))
    try:
        server = engine.Server(params)
    except RuntimeError as error:
        raise InferenceFailed(
            f"llama.cpp could not load {options.model_path}: {error} (It may be damaged, of a kind that "
            "this version does not know, or too large for this machine.)"
        ) from None
    # One question and answer, because freeing a server that has never answered can hang.
    server.handle_metrics()
    return server


def _generate(server: Any, request: Mapping[str, Any], to: HandOver) -> None:
    def on_chunk(chunk: dict[str, Any]) -> bool:
        """True stops the engine."""
        if _PROGRESS in chunk:
            return to.left  # no token, and it tells nothing about the pace of those
        return not to.put(chunk)

    handle: Callable[[Mapping[str, Any], Callable[[dict[str, Any]], bool]], None]
    handle = server.handle_chat_completions
    handle(request, on_chunk)
