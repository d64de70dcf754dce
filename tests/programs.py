"""Small programs that a test runs as processes of their own, and waits for."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import IO

# No honest wait of a test comes near it.
DEADLINE_S = 120.0


class Program:
    """A running Python program; what it prints is read line by line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def read_line(self) -> str:
        """The next line that it prints; empty at its end. The test's own time limit is the deadline."""
        return _pipe(self.process.stdout).readline().strip()

    def wait_line(self, line: str) -> None:
        """Wait until it prints `line`, and fail if it prints anything else."""
        read = self.read_line()
        assert read == line, f"the program printed {read!r}, not {line!r}"

    def tell(self, line: str) -> None:
        """Write a line to its standard input."""
        stdin = _pipe(self.process.stdin)
        stdin.write(line + "\n")
        stdin.flush()

    def finish(self) -> str:
        """Wait for its end, which must be a success; gives what it printed meanwhile. The test's own time
        limit is the deadline.
        """
        _pipe(self.process.stdin).close()
        # (`communicate` would lose what came together with the last line that was read.)
        output = _pipe(self.process.stdout).read()
        code = self.process.wait(DEADLINE_S)
        assert code == 0, f"the program ended with {code}"
        return output


@contextmanager
def run_program(source: str, *args: object) -> Generator[Program]:
    """Start `source` with `args` in `sys.argv[1:]`; it is killed at the end of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", source, *map(str, args)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Program(process)
        finally:
            process.kill()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Poll until `condition` holds; for what happens in another process or thread."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)


def report(figure: str) -> None:
    """Print a figure or a seed: pytest shows it with `-s`, and when the test fails."""
    print(figure)  # noqa: T201 - for people


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe
