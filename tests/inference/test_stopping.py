"""A generation that nobody wants any more stops, on the real engines; so does one that is in the way."""

from __future__ import annotations

import asyncio
import gc
import re
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from inference.conftest import PROVIDERS
from inference.questions import answer, ask
from runstream import Context, StartEvent, StopEvent, Workflow, step
from runstream.errors import InferenceFailed, RunCancelled
from runstream.inference import (
    InferenceChunk,
    LlamaCppOptions,
    LlamaCppProvider,
    Provider,
    llama_cpp,
    local_engine,
    stream_to_run,
)
from runstream.inference.assembly import Piece
from runstream.inference.hand_over import HandOver
from runstream.inference.openai_form import piece_of, request_of

generate = llama_cpp._generate  # pyright: ignore[reportPrivateUsage] # beneath the reader's loop
# More than any test takes before it leaves; the tiny model gets there in a second.
MANY = 3500
# A guard against hanging.
PATIENCE_S = 30


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.005)


def generating() -> list[str]:
    """The threads that run an engine now."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name in ("runstream-llama.cpp", "runstream-mistral.rs")]


def server_of(provider: LlamaCppProvider) -> Any:
    local: Any = provider._engine  # pyright: ignore[reportPrivateUsage] # asks the engine itself
    return local._state._engine


def tokens_generated(provider: LlamaCppProvider) -> int:
    """What llama.cpp itself has counted, once its generations are over."""
    metrics: str = server_of(provider).handle_metrics()
    count = re.search(r"^llamacpp:tokens_predicted_total (\d+)", metrics, re.MULTILINE)
    assert count is not None
    return int(count[1])


async def counted(provider: LlamaCppProvider, before: int) -> int:
    """The tokens generated since llama.cpp had counted `before`, as soon as it has counted them."""
    async with asyncio.timeout(PATIENCE_S):
        # In a thread: it waits for the engine's answer.
        while (now := await asyncio.to_thread(tokens_generated, provider)) == before:
            await asyncio.sleep(0.005)
    return now - before


async def leave(provider: Provider) -> None:
    """Leave the loop while the stream is still held."""
    stream = provider.stream_chunks(ask("count"), {"max_tokens": MANY})
    seen = 0
    async for _ in stream:
        seen += 1
        if seen == 10:
            break
    assert stream.message.content == "tick tock " * 5
    assert [chunk async for chunk in stream] == []


async def close_stream(provider: Provider) -> None:
    async with provider.stream_chunks(ask("count"), {"max_tokens": MANY}) as stream:
        assert (await anext(stream)).delta == "tick"


async def cancel(provider: Provider) -> None:
    begun = asyncio.Event()
    task = asyncio.ensure_future(
        provider.stream(ask("count"), lambda _: begun.set(), {"max_tokens": MANY})
    )
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def time_out(provider: Provider) -> None:
    stream = provider.stream_chunks(ask("count"), {"max_tokens": MANY})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            async for _ in stream:
                await asyncio.sleep(0.01)


async def raise_in_callback(provider: Provider) -> None:
    def fail(chunk: InferenceChunk) -> None:
        raise KeyError(chunk.delta)

    with pytest.raises(KeyError, match="tick"):
        await provider.stream(ask("count"), fail, {"max_tokens": MANY})


async def raise_in_async_callback(provider: Provider) -> None:
    async def fail(chunk: InferenceChunk) -> None:
        await asyncio.sleep(0)
        raise KeyError(chunk.delta)

    with pytest.raises(KeyError, match="tick"):
        await provider.stream(ask("count"), fail, {"max_tokens": MANY})


WAYS = [leave, close_stream, cancel, time_out, raise_in_callback, raise_in_async_callback]


@pytest.mark.parametrize("stop", WAYS)
async def test_whoever_leaves_stops_the_engine(
    engine: Provider, stop: Callable[[Provider], Any]
) -> None:
    await answer(engine, "Hi")
    await until(lambda: not generating())
    before = tokens_generated(engine) if isinstance(engine, LlamaCppProvider) else 0
    await stop(engine)
    await until(lambda: not generating())
    if isinstance(engine, LlamaCppProvider):
        # It counts when it has stopped. It runs ahead while Python waits for a CPU, but not to the end.
        assert await counted(engine, before) < MANY
    _, message = await answer(engine, "Tell me a joke")
    assert message.finish_reason == "stop"


class LeavesAtTheTenth(HandOver):
    """A reader that leaves at the very moment when the engine hands over its tenth token."""

    def __init__(self) -> None:
        super().__init__(piece_of)
        self.taken = 0

    def put(self, chunk: dict[str, Any]) -> bool:
        piece = piece_of(chunk)
        self.taken += piece is not None and bool(piece.content)
        if self.taken == 10:
            self.leave()
        return not self.left


async def test_llama_cpp_is_stopped_by_the_token_at_which_its_reader_leaves(gguf: Path) -> None:
    async with LlamaCppProvider(options=LlamaCppOptions(model_path=gguf)) as provider:
        await answer(provider, "Hi")
        before = tokens_generated(provider)
        request = request_of(ask("count"), {"max_tokens": MANY}, reasoning=True)
        reader = LeavesAtTheTenth()
        await asyncio.to_thread(generate, server_of(provider), request, reader)
        assert reader.taken == 10
        # It may be some tokens ahead of the thread that hands them over, where CPUs are scarce.
        assert await counted(provider, before) < MANY


class Collects(HandOver):
    """A reader that is handed an engine's chunks as they are."""

    def __init__(self) -> None:
        super().__init__(piece_of)
        self.given: list[Mapping[str, Any]] = []

    def put(self, chunk: Mapping[str, Any]) -> bool:
        self.given.append(chunk)
        return not self.left


async def test_a_long_prompt_is_no_chunk_and_is_not_read_on_for_a_reader_that_has_left(
    gguf: Path,
) -> None:
    async with LlamaCppProvider(options=LlamaCppOptions(model_path=gguf)) as provider:
        await answer(provider, "Hi")
        request = {
            **request_of(ask("x " * 1900 + "joke"), {}, reasoning=True),
            "return_progress": True,
        }
        left, stays = Collects(), Collects()
        left.leave()
        before = tokens_generated(provider)
        await asyncio.to_thread(generate, server_of(provider), request, left)
        assert left.given == []
        await asyncio.to_thread(generate, server_of(provider), request, stays)
        assert await counted(provider, before) == 12  # of the second one
        # A prompt is read in portions that take as long as many tokens: its pace is another one.
        assert not [chunk for chunk in stays.given if "prompt_progress" in chunk]


class CountsWhatIsTooMuch(HandOver):
    """A hand-over that counts what the engine's thread brings after the reader has left."""

    too_much = 0

    def put(self, chunk: Any) -> bool:
        self.too_much += self.left
        return super().put(chunk)


@pytest.mark.parametrize("stop", WAYS)
async def test_an_engine_s_first_chunk_after_its_reader_has_left_stops_it(
    engine: Provider, stop: Callable[[Provider], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[CountsWhatIsTooMuch] = []

    def make(piece_of: Callable[[Any], Piece | None]) -> HandOver:
        made.append(CountsWhatIsTooMuch(piece_of))
        return made[-1]

    monkeypatch.setattr(local_engine, "HandOver", make)
    await stop(engine)
    await until(lambda: not generating())
    (hand_over,) = made
    assert hand_over.too_much <= 1


@pytest.mark.parametrize("stop", WAYS)
async def test_whoever_leaves_closes_the_connection_to_a_server(
    request: pytest.FixtureRequest, stop: Callable[[Provider], Any]
) -> None:
    provider = PROVIDERS["openai"](request)
    tasks = asyncio.all_tasks()
    await stop(provider)
    await until(lambda: asyncio.all_tasks() <= tasks)
    await provider.aclose()


async def test_a_callback_that_blocks_gets_every_chunk_all_the_same(engine: Provider) -> None:
    seen: list[str] = []

    def on_chunk(chunk: InferenceChunk) -> None:
        if len(seen) < 10:
            time.sleep(0.01)
        seen.append(chunk.delta or "")

    await engine.stream(ask("count"), on_chunk, {"max_tokens": 400})
    assert "".join(seen) == "tick tock " * 200


async def test_a_slow_reader_gets_every_chunk_all_the_same(provider: Provider) -> None:
    seen: list[str] = []
    async for chunk in provider.stream_chunks(ask("count"), {"max_tokens": 400}):
        if len(seen) % 50 == 0:
            await asyncio.sleep(0.01)
        seen.append(chunk.delta or "")
    assert "".join(seen) == "tick tock " * 200


async def test_closing_a_provider_ends_its_generations_with_an_error(provider: Provider) -> None:
    begun = asyncio.Event()
    task = asyncio.ensure_future(
        provider.stream(ask("count"), lambda _: begun.set(), {"max_tokens": MANY})
    )
    await begun.wait()
    await provider.aclose()
    with pytest.raises(InferenceFailed, match="the provider was closed"):
        await task
    with pytest.raises(InferenceFailed, match="the provider was closed"):
        await answer(provider, "Hi")
    await provider.aclose()


async def test_a_stream_that_another_task_closes_ends_without_a_reason(provider: Provider) -> None:
    stream = provider.stream_chunks(ask("count"), {"max_tokens": MANY})
    begun = asyncio.Event()

    async def read() -> list[str | None]:
        reasons: list[str | None] = []
        async for chunk in stream:
            begun.set()
            reasons.append(chunk.finish_reason)
        return reasons

    reading = asyncio.ensure_future(read())
    await begun.wait()
    await stream.aclose()
    async with asyncio.timeout(PATIENCE_S):
        assert set(await reading) == {None}
    assert stream.message.finish_reason is None


async def test_a_provider_that_nobody_holds_frees_its_model(gguf: Path) -> None:
    provider = LlamaCppProvider(options=LlamaCppOptions(model_path=gguf))
    await answer(provider, "Hi")
    state = weakref.ref(provider._engine._state)  # pyright: ignore[reportPrivateUsage] # it holds the model
    del provider
    gc.collect()
    await until(lambda: state() is None)


@pytest.fixture
def endless(engine: Provider) -> Workflow:
    """A workflow whose only step generates for ever."""

    @step
    async def generate(ctx: Context, ev: StartEvent) -> StopEvent:
        chunks = engine.stream_chunks(ask("count"), {"max_tokens": MANY})
        return StopEvent(result=await stream_to_run(chunks))

    return Workflow("endless", [generate])


async def test_cancelling_the_run_stops_the_engine(endless: Workflow, memory_url: str) -> None:
    handler = endless.run(url=memory_url)
    async for record in handler.subscribe(kinds="token"):
        if record.kind == "token":
            await handler.cancel_run("enough")
            break
    with pytest.raises(RunCancelled):
        await handler
    await until(lambda: not generating())


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_forked_process_is_told_that_the_engine_is_not_there(gguf: Path, kind: str) -> None:
    program = f"""
        import asyncio, os, sys
        from runstream.inference import *
        if {kind!r} == "llama":
            provider = LlamaCppProvider(options=LlamaCppOptions(model_path={str(gguf)!r}))
        else:
            provider = MistralRsProvider(options=MistralRsOptions({str(gguf)!r}))

        def joke():
            message = asyncio.run(provider.stream([ChatMessage.user("joke")], lambda _: None))
            return message.content

        print(joke(), flush=True)
        if (child := os.fork()) == 0:
            try:
                joke()
            except InferenceFailed as error:
                print("spawn" in str(error), flush=True)
            del provider
            os._exit(3)  # as multiprocessing ends its forks: llama.cpp's own handlers hang in one
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
        print(joke(), flush=True)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    joke = "Why did the token cross the stream? To be next!"
    assert done.stdout == f"{joke}\nTrue\n{joke}\n", done.stderr
    assert done.returncode == 0, done.stderr


EXITS = {
    "end": "",
    "exit": "sys.exit(3)",
    "error": "raise RuntimeError('on purpose')",
    "interrupt": "os.kill(os.getpid(), signal.SIGINT); time.sleep(30)",
}


@pytest.mark.parametrize("how", EXITS)
@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_a_process_that_ends_during_a_generation_ends_as_it_says(
    gguf: Path, kind: str, how: str
) -> None:
    program = f"""
        import asyncio, contextlib, os, signal, sys, threading, time
        from runstream.inference import *
        if {kind!r} == "llama":
            provider = LlamaCppProvider(options=LlamaCppOptions(model_path={str(gguf)!r}))
        else:
            provider = MistralRsProvider(options=MistralRsOptions({str(gguf)!r}))
        begun = threading.Event()

        def generate():
            # (What a daemon thread prints while the interpreter ends can abort it, whoever's thread it is.)
            with contextlib.suppress(BaseException):
                asyncio.run(provider.stream([ChatMessage.user("count")], lambda _: begun.set(),
                                            {{"max_tokens": {MANY}}}))

        threading.Thread(target=generate, daemon=True).start()
        begun.wait()
        print("begun", flush=True)
        {EXITS[how]}
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    codes = {"end": 0, "exit": 3, "error": 1, "interrupt": -2}
    assert done.returncode == codes[how], done.stderr
    assert done.stdout == "begun\n"  # and nothing of an engine
