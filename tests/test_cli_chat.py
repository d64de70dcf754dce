from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Self

import pytest

from command_process import RUNSTREAM, environment
from inference.scripted_server import DONE, chunk, refuse, scripted_server, stream
from runstream import Record, connect
from runstream.inference import TinyModel
from runstream.log import RunInfo

PATIENCE_S = 30


class Terminal:
    """A command in a terminal of its own, and a person who waits for what it shows."""

    def __init__(self, url: str, *words: str) -> None:
        self._ours, theirs = pty.openpty()
        # As wide as any line of ours, so that none is folded.
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 300, 0, 0))
        self._process = subprocess.Popen(
            [*RUNSTREAM, *words],
            env=environment(url),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._shown = ""

    @property
    def returncode(self) -> int | None:
        return self._process.returncode

    def wait_for(self, text: str) -> None:
        """Read up to and including `text`."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self._shown:
            ready, _, _ = select.select([self._ours], [], [], deadline - time.monotonic())
            assert ready, f"never shown: {text!r}, but {self._shown!r}"
            self._shown += os.read(self._ours, 65536).decode(errors="replace")
        self._shown = self._shown.partition(text)[2]

    def answer(self, prompt: str, typed: str) -> None:
        self.wait_for(prompt)
        os.write(self._ours, typed.encode())

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def interrupt_at_prompt(self) -> None:
        """Press Ctrl-C when the chat waits for a key.

        A signal between readline's prompt and its wait is only looked at with the next key: nobody
        is that quick, but a test is.
        """
        self.wait_for("> ")
        state = Path(f"/proc/{self._process.pid}/stat")
        deadline = time.monotonic() + PATIENCE_S
        while state.read_text().rpartition(")")[2].split()[0] != "S":
            assert time.monotonic() < deadline, "the chat never waits for a key"
        self.interrupt()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            os.close(self._ours)


TINY = ("chat", "--model", "tiny")


def chat(url: str, typed: str, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Chat without a terminal."""
    return subprocess.run(
        [*RUNSTREAM, *words],
        env=environment(url, **more),
        input=typed,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def chat_run(url: str) -> tuple[RunInfo, list[Record]]:
    with connect(url) as streams:
        (run,) = streams.list_runs(workflow="chat")
        return run, list(streams.subscribe(run.run_id, follow=False))


def test_without_a_terminal_each_line_is_a_question(sqlite_url: str) -> None:
    done = chat(sqlite_url, "Tell me a joke\n\nAn emoji\n", *TINY)
    assert done.stdout == "Why did the token cross the stream? To be next!\nSmile 😀 café done\n"
    assert (done.returncode, done.stderr) == (0, "")


def test_the_chat_is_a_run_that_others_can_follow(sqlite_url: str) -> None:
    chat(sqlite_url, "Hi\nthink\n", *TINY, "--temperature", "0")
    run, records = chat_run(sqlite_url)
    assert run.status == "completed"
    messages = [record for record in records if record.kind == "message"]
    assert [(m.correlation_id, m.data["role"], m.data["content"]) for m in messages] == [
        ("turn-1", "user", "Hi"),
        ("turn-1", "assistant", "Hello there, I am a tiny model."),
        ("turn-2", "user", "think"),
        ("turn-2", "assistant", "The answer follows from that..."),
    ]
    tokens = [r for r in records if r.kind == "token" and r.correlation_id == "turn-1"]
    assert "".join(r.data["text"] for r in tokens) == "Hello there, I am a tiny model."
    assert "reasoning" in {record.kind for record in records}


def test_ctrl_c_stops_the_answer_and_the_chat_goes_on(sqlite_url: str) -> None:
    with Terminal(sqlite_url, *TINY) as terminal:
        terminal.answer("> ", "count\n")
        terminal.wait_for("tick tock tick")
        terminal.interrupt()
        terminal.wait_for("Stopped.")
        terminal.answer("> ", "Tell me a joke\n")
        terminal.wait_for("To be next!")
        terminal.answer("> ", "\x04")
    assert terminal.returncode == 0
    run, records = chat_run(sqlite_url)
    assert run.status == "completed"
    first = [r.data for r in records if r.kind == "message" and r.correlation_id == "turn-1"]
    assert first[1]["finish_reason"] == "cancelled"
    assert first[1]["content"].startswith("tick tock")


def test_ctrl_c_at_the_prompt_says_how_to_leave_and_leaves_at_the_second(sqlite_url: str) -> None:
    with Terminal(sqlite_url, *TINY) as terminal:
        terminal.interrupt_at_prompt()
        terminal.wait_for("Ctrl-D leaves, and so does Ctrl-C once more.")
        terminal.answer("> ", "Hi\n")  # a question between them begins again
        terminal.wait_for("tokens/s")
        terminal.interrupt_at_prompt()
        terminal.wait_for("once more.")
        terminal.interrupt_at_prompt()
    assert terminal.returncode == 0
    run, _ = chat_run(sqlite_url)
    assert run.status == "completed"


def test_in_a_terminal_it_says_how_to_follow_it_and_how_fast_it_was(sqlite_url: str) -> None:
    with Terminal(sqlite_url, *TINY) as terminal:
        terminal.wait_for("tiny.gguf on llama.cpp. Ctrl-C stops an answer, Ctrl-D leaves.")
        terminal.wait_for("Follow it from another terminal:")
        terminal.answer("> ", "think\n")
        terminal.wait_for(" slowly")
        terminal.wait_for("14 tokens")
        terminal.answer("> ", "\x04")
    assert terminal.returncode == 0


def test_mistral_rs_runs_folders_and_gguf_files(tmp_path: Path, sqlite_url: str) -> None:
    folder = TinyModel().write_safetensors(tmp_path / "tiny")
    gguf = TinyModel().write_gguf(tmp_path / "tiny.gguf")
    for model in (("--model", str(folder)), ("--model", str(gguf), "--engine", "mistralrs")):
        done = chat(sqlite_url, "Tell me a joke\n", "chat", *model)
        assert done.stdout == "Why did the token cross the stream? To be next!\n", done.stderr


async def test_a_server_is_asked_with_the_whole_chat(sqlite_url: str) -> None:
    replies = [stream(chunk(text), chunk(finish="stop"), DONE) for text in ("One.", "Two.")]
    async with scripted_server(*replies) as server:
        words = ("chat", "--base-url", server.base_url, "--model", "m", "--system", "Be brief.")
        done = await asyncio.to_thread(chat, sqlite_url, "a\nb\n", *words, "--max-tokens", "9")
    assert done.stdout == "One.\nTwo.\n", done.stderr
    assert [message["content"] for message in server.requests[1]["messages"]] == [
        *("Be brief.", "a", "One.", "b")
    ]
    assert (server.requests[1]["model"], server.requests[1]["max_tokens"]) == ("m", 9)


async def test_what_a_model_writes_cannot_move_the_terminal(sqlite_url: str) -> None:
    reply = stream(chunk("a\x1b[2Jb\n\tc\x07"), chunk(finish="stop"), DONE)
    async with scripted_server(reply) as server:
        words = ("chat", "--base-url", server.base_url)
        done = await asyncio.to_thread(chat, sqlite_url, "a\n", *words)
    assert done.stdout == "a\\u001b[2Jb\n    c\\u0007\n"


async def test_an_answer_that_fails_is_one_line_on_stderr(sqlite_url: str) -> None:
    async with scripted_server(refuse(400, "no llamas today")) as server:
        words = ("chat", "--base-url", server.base_url)
        done = await asyncio.to_thread(chat, sqlite_url, "a\nb\n", *words)
    assert done.returncode == 1
    assert "no llamas today" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "Say which model"),
        (("--model", "nowhere.gguf"), "there is no model file nowhere.gguf"),
        (("--model", "m", "--engine", "mistralrs", "--base-url", "http://x"), "is a server's"),
        (("--model", "no such model"), "is no file, no folder and no id"),
    ],
)
def test_a_model_that_cannot_be_is_a_usage_error(
    sqlite_url: str, words: tuple[str, ...], says: str
) -> None:
    done = chat(sqlite_url, "a\n", "chat", *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_extra_is_named(sqlite_url: str) -> None:
    program = """if True:
        import sys
        sys.modules["xllamacpp"] = sys.modules["mistralrs"] = None  # as if not installed
        from runstream.cli import main
        main()
    """
    done = subprocess.run(
        [sys.executable, "-c", program, *TINY],
        env=environment(sqlite_url),
        input="a\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'runstream[llama-cpp]'" in done.stderr
