"""Real `runstream` processes for tests: what scripts, pipes and terminals see."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

RUNSTREAM = (sys.executable, "-m", "runstream")
# A guard against hanging, far beyond what any of these takes.
PROCESS_S_MAX = 120


def environment(url: str, **more: str) -> dict[str, str]:
    """This environment without anything that decides on colours, and with the log of the test."""
    deciding = {"NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in deciding and not name.startswith("RUNSTREAM_")
    }
    return {**kept, "RUNSTREAM_URL": url, "TERM": "xterm-256color", **more}


def run_command(
    url: str, *words: str, program: Sequence[str] = RUNSTREAM, **more: str
) -> subprocess.CompletedProcess[str]:
    """Run a command without a terminal, to its end."""
    return subprocess.run(
        [*program, *words],
        env=environment(url, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PROCESS_S_MAX,
        check=False,
    )


@contextmanager
def started_command(url: str, *words: str) -> Generator[subprocess.Popen[str]]:
    """A command that goes on while the block runs; whatever is left of it is killed."""
    with subprocess.Popen(
        [*RUNSTREAM, *words],
        env=environment(url),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Shown:
    """What a command showed in a terminal (both outputs), and its exit code."""

    text: str
    returncode: int


def run_in_terminal(
    url: str,
    *words: str,
    size: tuple[int, int] = (80, 24),
    typed: str = "",
    interrupt_at: str | None = None,
    **more: str,
) -> Shown:
    """Run a command in a terminal of its own, to its end.

    `typed` waits there to be read; Ctrl-C is pressed once `interrupt_at` is shown.
    """
    ours, theirs = pty.openpty()
    columns, lines = size
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    os.write(ours, typed.encode())
    with subprocess.Popen(
        [*RUNSTREAM, *words],
        env=environment(url, **more),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        parts: list[bytes] = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
                if interrupt_at is not None and interrupt_at in b"".join(parts).decode(
                    errors="replace"
                ):
                    process.send_signal(signal.SIGINT)
                    interrupt_at = None
        except OSError:
            pass  # how Linux says that nobody has the terminal open any more
        finally:
            os.close(ours)
            process.kill()
    # A signal may cut a write to a terminal short, in the middle of a character.
    return Shown(b"".join(parts).decode(errors="replace"), process.returncode)
