"""`runstream chat`: talk to a local model. Each answer streams into this terminal and into a run, so that any
other terminal can follow it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Generator, Iterator
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console

from ..errors import InferenceFailed, InvalidInput
from ..inference import (
    ChatMessage,
    InferenceChunk,
    LlamaCppOptions,
    LlamaCppProvider,
    MistralRsOptions,
    MistralRsProvider,
    OpenAIProvider,
    Provider,
    TinyModel,
    stream_to_run,
)
from ..publishing import publish
from ..run import start_run
from ..settings import read_settings
from .exit_codes import NOT_OK
from .options import Problem, debug_option, url_option
from .terminal import command_line, harmless, make_console

EXAMPLES: Final = """\b
Examples:
  runstream chat --model tiny                     the model of the demo: say "joke", "think" or "count"
  runstream chat --model llama-3.2-1b.gguf        llama.cpp
  runstream chat --model Qwen/Qwen3-0.6B          mistral.rs, from the Hugging Face hub
  runstream chat --base-url http://127.0.0.1:8080/v1
  echo "Tell me a joke" | runstream chat --model tiny
"""

TINY: Final = "tiny"
# An answer may be this many tokens shorter than the context: for the question, and those before.
_CONTEXT_LENGTH: Final = 4096
_LEAVE: Final = "Ctrl-D leaves, and so does Ctrl-C once more."


@click.command(epilog=EXAMPLES, short_help="Chat with a model in this terminal.")
@click.option(
    "--model",
    metavar="MODEL",
    help="A GGUF file, a folder with safetensors, a model id on the Hugging Face hub, a server's name for a "
    'model, or "tiny", which is made on the spot.',
)
@click.option(
    "--engine",
    type=click.Choice(["llama-cpp", "mistralrs", "openai"]),
    help="The engine. Default: openai with --base-url, llama-cpp for a GGUF file, else mistralrs.",
)
@click.option("--base-url", metavar="URL", help="A server with an OpenAI-compatible API.")
@click.option("--system", metavar="TEXT", help="The system prompt.")
@click.option(
    "--max-tokens", type=click.IntRange(1), metavar="N", help="The longest answer, in tokens."
)
@click.option(
    "--temperature",
    type=click.FloatRange(0, 10),
    metavar="T",
    help="The sampling temperature; with 0 answers never vary.",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    default=_CONTEXT_LENGTH,
    show_default=True,
    metavar="N",
    help="Context size of llama.cpp, in tokens, for the whole chat.",
)
@url_option
@debug_option
def chat(
    model: str | None,
    engine: str | None,
    base_url: str | None,
    system: str | None,
    max_tokens: int | None,
    temperature: float | None,
    context: int,
    url: str | None,
) -> None:
    """Chat with a model. Ctrl-C stops an answer, Ctrl-D leaves the chat.

    The chat is a run of the workflow "chat": other terminals can follow it, and it is stored, unless you
    give --url memory:. Without a terminal, each line of standard input is a question.
    """
    with _opened(model, engine, base_url, context) as (provider, name):
        options = {"max_tokens": max_tokens, "temperature": temperature}
        talk = Chat(provider, system, options)
        url = url or read_settings().url
        with start_run("chat", url=url) as run, asyncio.Runner() as runner:
            try:
                _load(runner, provider)
                if talk.is_watched:
                    talk.say(f"{name}. Ctrl-C stops an answer, Ctrl-D leaves.")
                if talk.is_watched and not url.startswith("memory:"):
                    talk.say(
                        "Follow it from another terminal:  "
                        + command_line("tail", run.run_id, url=url)
                    )
                for question in talk.questions():
                    talk.answer(runner, question)
            finally:
                runner.run(provider.aclose())


def _load(runner: asyncio.Runner, provider: Provider) -> None:
    try:
        runner.run(provider.load())
    except InferenceFailed as error:
        raise Problem(str(error), NOT_OK) from error


@contextlib.contextmanager
def _opened(
    model: str | None, engine: str | None, base_url: str | None, context: int
) -> Generator[tuple[Provider, str]]:
    """The provider that the options ask for, and what to call it."""
    with contextlib.ExitStack() as stack:
        if model == TINY and base_url is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="runstream-")))
            model = str(TinyModel().write_gguf(folder / "tiny.gguf"))
        if engine is None:
            engine = _engine_for(model, base_url)
        if engine == "openai":
            yield OpenAIProvider(model or "default", base_url=base_url), base_url or "OpenAI"
            return
        if model is None or base_url is not None:
            raise click.UsageError(
                "Say which model: --model FILE, --model tiny, or --base-url of a server."
                if model is None
                else f"--base-url is a server's; {engine} runs models in this process."
            )
        if engine == "llama-cpp":
            loading = LlamaCppOptions(model_path=model, context_length=context, parallel=1)
            yield LlamaCppProvider(options=loading), f"{Path(model).name} on llama.cpp"
        else:
            given = MistralRsOptions(model, parallel=1)
            yield MistralRsProvider(options=given), f"{model} on mistral.rs"


def _engine_for(model: str | None, base_url: str | None) -> str:
    if base_url is not None:
        return "openai"
    is_gguf = model is None or model.endswith(".gguf")
    if is_gguf and (_has("xllamacpp") or not _has("mistralrs")):
        return "llama-cpp"
    return "mistralrs"


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


class Chat:
    """The talk so far, and the terminal in which it goes on."""

    def __init__(self, provider: Provider, system: str | None, options: dict[str, Any]) -> None:
        self._provider = provider
        self._options = options
        self._messages = [] if system is None else [ChatMessage.system(system)]
        self._turn = 0
        self._console = make_console()
        self._notes = make_console(stderr=True)
        self.is_watched = sys.stdin.isatty() and self._console.file.isatty()

    def say(self, text: str) -> None:
        """A word of ours, which is no part of an answer."""
        self._notes.print(text, style="dim", soft_wrap=True)

    def questions(self) -> Iterator[str]:
        """What the user asks, until there is no more."""
        if not self.is_watched:
            yield from filter(None, map(str.strip, sys.stdin))
            return
        with contextlib.suppress(ImportError):
            importlib.import_module("readline")  # gives `input` its editing keys and its history
        told = False
        while True:
            try:
                question = input("> ").strip()
            except EOFError:
                click.echo()
                return
            except KeyboardInterrupt:
                click.echo()
                if told:
                    return
                self.say(_LEAVE)
                told = True
                continue
            told = False
            if question:
                yield question

    def answer(self, runner: asyncio.Runner, question: str) -> None:
        """Answer, showing it as it comes. Ctrl-C ends the answer; the chat goes on with what there is."""
        self._turn += 1
        asked = ChatMessage.user(question)
        turn = f"turn-{self._turn}"
        publish({"role": "user", "content": question}, kind="message", correlation_id=turn)
        shown = Shown(self._console)
        try:
            message = runner.run(self._stream([*self._messages, asked], turn, shown))
        except KeyboardInterrupt:
            if not self.is_watched:
                raise
            message = shown.so_far()
            publish(
                {"role": "assistant", "content": message.content, "finish_reason": "cancelled"},
                kind="message",
                correlation_id=turn,
            )
            self.say("\nStopped.")
        except (InferenceFailed, InvalidInput) as error:
            if not self.is_watched:
                raise Problem(str(error), NOT_OK) from error
            self._notes.print(f"\n{harmless(str(error))}", style="red", soft_wrap=True)
            return  # as if it had not been asked
        else:
            self._console.print()
            self._sum_up(message, shown.lasted_s())
        self._messages += [asked, message]

    async def _stream(self, messages: list[ChatMessage], turn: str, shown: Shown) -> ChatMessage:
        chunks = self._provider.stream_chunks(messages, self._options)
        return await stream_to_run(shown.passing(chunks), correlation_id=turn)

    def _sum_up(self, message: ChatMessage, took_s: float) -> None:
        if not self.is_watched:
            return
        words = [f"{took_s:.1f} s"]
        if message.usage is not None:
            tokens = message.usage.completion_tokens
            words = [f"{tokens} tokens", *words, f"{tokens / max(took_s, 1e-3):,.0f} tokens/s"]
        if message.finish_reason not in ("stop", None):
            words.append(str(message.finish_reason))
        words += [f"asks for {call.name}({call.arguments})" for call in message.tool_calls]
        self.say(harmless(" · ".join(words)))


class Shown:
    """An answer on its way through the terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._content: list[str] = []
        self._reasoned = False
        # From the first chunk on: before it the model may have been loaded.
        self._begin_s = 0.0

    async def passing(self, chunks: AsyncIterator[InferenceChunk]) -> AsyncIterator[InferenceChunk]:
        """Show the chunks and hand them on."""
        async for chunk in chunks:
            self._begin_s = self._begin_s or time.monotonic()
            if chunk.reasoning_delta:
                self._reasoned = True
                self._print(chunk.reasoning_delta, "dim italic")
            if chunk.delta:
                if self._reasoned:
                    self._reasoned = False
                    self._console.print("\n")
                self._content.append(chunk.delta)
                self._print(chunk.delta)
            yield chunk

    def lasted_s(self) -> float:
        return time.monotonic() - self._begin_s

    def so_far(self) -> ChatMessage:
        return ChatMessage.assistant("".join(self._content))

    def _print(self, text: str, style: str | None = None) -> None:
        # A model may write what moves the cursor, or worse; lines and tabs are harmless.
        lines = text.replace("\t", "    ").split("\n")
        self._console.print("\n".join(map(harmless, lines)), style=style, end="", soft_wrap=True)
        self._console.file.flush()
