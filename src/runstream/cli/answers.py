"""A person's answers: lines of the standard input, each read only when somebody asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from typing import Final

_CHUNK_BYTES: Final = 4096


class Answers:
    """Reads lines in a thread that nothing waits for: one that is blocked must not hold up the end."""

    def __init__(self, descriptor: int = 0) -> None:
        self._descriptor = descriptor
        self._read = b""

    async def line(self) -> str | None:
        """The next line; None at the end of the input. One caller at a time."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str | None] = loop.create_future()

        def resolve(line: str | None) -> None:
            if not answer.done():
                answer.set_result(line)

        def read() -> None:
            line = self._next_line()
            with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
                loop.call_soon_threadsafe(resolve, line)

        threading.Thread(target=read, name="runstream-answers", daemon=True).start()
        return await answer

    def _next_line(self) -> str | None:
        while b"\n" not in self._read:
            try:
                # Past Python's own reader, whose lock a blocked thread would hold at exit.
                chunk = os.read(self._descriptor, _CHUNK_BYTES)
            except OSError:  # there is no standard input
                chunk = b""
            if not chunk:
                last, self._read = self._read, b""
                return _text(last) if last else None
            self._read += chunk
        line, _, self._read = self._read.partition(b"\n")
        return _text(line)


def _text(line: bytes) -> str:
    encoding = sys.stdin.encoding if sys.stdin is not None else "utf-8"
    return line.decode(encoding, errors="replace").rstrip("\r")
