"""mistral.rs in this process: a GGUF file, a folder with safetensors, or a model of the Hugging Face hub."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from ..errors import InferenceFailed, InvalidInput
from ..settings import quiet_rust, set_rust_threads
from .assembly import CallFragment, Piece
from .chunk_stream import InferenceChunkStream, OnChunk, run_callback
from .hand_over import HandOver
from .hub import HUB_MODULE, fetch_model, is_hub_id
from .local_engine import LocalEngine, check_sizes, import_extra, require_extra
from .message import ChatMessage, Messages, Usage, check_messages
from .model_file import check_gguf, read_ahead
from .options import Options, check_options

_MODULE: Final = "mistralrs"
_EXTRA: Final = "mistralrs"
# mistral.rs appends its stack to what it says.
_STACK: Final = re.compile(r"\n\s+0: .*", re.DOTALL)

_REFUSED: Final = {"seed": "it is drawn once, when the model is loaded: MistralRsOptions(seed=…)"}
# Our options -> mistral.rs's, where they differ.
_NAMES: Final = {"stop": "stop_seqs"}


@dataclass(frozen=True, slots=True)
class MistralRsOptions:
    """How a model is loaded.

    Args:
        model: a GGUF file, a folder with safetensors, or the id of a model of the Hugging Face hub that
            has safetensors. It is fetched once, into the folder that all programs keep them in.
        parallel: how many generations run at once; more of them wait for their turn.
        threads: of the CPU; None: one for each CPU. Those of the first model that this process loads count
            for all of them.
        quantize: quantizes the weights while they are loaded, such as "Q4K".
        seed: of the random numbers of all generations.
        chat_template: a file with a Jinja template instead of the model's own.
    """

    model: str | Path
    parallel: int = 2
    threads: int | None = None
    quantize: str | None = None
    seed: int | None = None
    chat_template: str | Path | None = None


class MistralRsProvider:
    """A `Provider` that runs a model with mistral.rs.

    Making one is cheap: the model is loaded (from the hub: fetched) by the first generation, in its
    thread. mistral.rs itself can't be paused: with a slow reader it runs ahead, as far as `max_tokens`
    and the context allow.

    Raises:
        ExtraMissing: mistralrs is not installed.
        InvalidInput: the model is no file, folder or id, or another option is not acceptable.
    """

    def __init__(self, *, options: MistralRsOptions) -> None:
        require_extra(_MODULE, _EXTRA)
        check_sizes(options, "parallel", "threads")
        _check_model(str(options.model))
        self._engine = LocalEngine(
            "mistral.rs", lambda is_closed: _Engine(options, is_closed), _piece
        )

    async def stream(
        self, messages: Messages, on_chunk: OnChunk, options: Options = None
    ) -> ChatMessage:
        """See `Provider.stream`."""
        return await run_callback(self.stream_chunks(messages, options), on_chunk)

    def stream_chunks(self, messages: Messages, options: Options = None) -> InferenceChunkStream:
        """See `Provider.stream_chunks`."""
        checked = check_messages(messages)
        given = check_options(options, "mistral.rs", _REFUSED)
        choice = given.get("tool_choice")
        if choice not in (None, "auto", "none"):
            raise InvalidInput(
                f"mistral.rs has no tool_choice {choice!r}: it knows 'auto' and 'none'"
            )
        return InferenceChunkStream(
            lambda: self._engine.begin(lambda engine, to: engine.generate(checked, given, to))
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


class _Engine:
    """The library and a loaded model. Used in the threads of generations alone."""

    def __init__(self, options: MistralRsOptions, is_closed: Callable[[], bool]) -> None:
        if options.threads is not None:
            set_rust_threads(options.threads)
        model = Path(options.model)
        if not model.exists():
            model = fetch_model(str(options.model), _EXTRA, is_closed)
        with quiet_rust():  # else it writes its log to stdout
            self._library: Any = import_extra(_MODULE, _EXTRA)
            for file in _files(model):
                read_ahead(file)
            try:
                self._runner: Any = self._library.Runner(
                    which=self._which(model),
                    max_seqs=options.parallel,
                    seed=options.seed,
                    in_situ_quant=options.quantize,
                    jinja_explicit=options.chat_template and str(options.chat_template),
                )
            except (ValueError, OSError) as error:
                raise InferenceFailed(
                    f"mistral.rs could not load {options.model}: {_words(error)}"
                ) from None

        # Two threads that send at the same time get "Already borrowed".
        self._sending = threading.Lock()

    def _which(self, model: Path) -> Any:
        which = self._library.Which
        if model.is_file():
            return which.GGUF(quantized_model_id=str(model.parent), quantized_filename=model.name)
        return which.Plain(model_id=str(model))

    def generate(
        self, messages: Sequence[ChatMessage], options: Mapping[str, Any], to: HandOver
    ) -> None:
        """Generate until the end, or until the reader leaves."""
        try:
            request = self._request(messages, options)
            with self._sending:
                chunks: Iterator[Any] = self._runner.send_chat_completion_request(request)
            for chunk in chunks:
                if not to.put(chunk):
                    return  # dropping the iterator stops the engine
        except (ValueError, TypeError) as error:
            raise InferenceFailed(f"mistral.rs: {_words(error)}") from None

    def _request(self, messages: Sequence[ChatMessage], options: Mapping[str, Any]) -> Any:
        given = {_NAMES.get(name, name): value for name, value in options.items()}
        tools = given.pop("tools", None)
        choice = given.pop("tool_choice", None)
        if tools:
            choices = self._library.ToolChoice
            given["tool_schemas"] = [msgspec.json.encode(tool).decode() for tool in tools]
            given["tool_choice"] = choices.NoTools if choice == "none" else choices.Auto
        return self._library.ChatCompletionRequest(
            messages=[message.as_openai(reasoning=True) for message in messages],
            model="default",
            stream=True,
            **given,
        )


def _piece(chunk: Any) -> Piece | None:
    choice = chunk.choices[0]
    delta = choice.delta
    # The library makes each of these anew for whoever looks at it.
    content, reasoning, reason = delta.content, delta.reasoning_content, choice.finish_reason
    calls, usage = delta.tool_calls, chunk.usage
    fragments = tuple(map(_fragment, calls)) if calls else ()
    if usage is not None:
        usage = Usage(usage.prompt_tokens, usage.completion_tokens)
    if content or reasoning or fragments or reason or usage:
        return Piece(content, reasoning, fragments, reason, usage)
    return None


def _fragment(call: Any) -> CallFragment:
    return CallFragment(call.index, call.id, call.function.name, call.function.arguments)


def _files(model: Path) -> list[Path]:
    return sorted(model.glob("*.safetensors")) if model.is_dir() else [model]


def _check_model(model: str) -> None:
    path = Path(model)
    if model and path.is_dir():
        return
    if path.is_file() or model.endswith(".gguf") or path.is_absolute() or model.startswith("."):
        check_gguf(path)
    elif is_hub_id(model):
        require_extra(HUB_MODULE, _EXTRA)
    else:
        raise InvalidInput(f"{model!r} is no file, no folder and no id such as 'org/model'")


def _words(error: Exception) -> str:
    return _STACK.sub("", str(error))
