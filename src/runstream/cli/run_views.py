"""How `runstream run` shows a run: as a live screen, as plain lines, or as JSON for programs."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import IO, Any, Final, Protocol, cast

import click
from rich.console import Console
from rich.live import Live
from rich.text import Text

from ..record import Record
from ..wire import encode_record
from .record_line import RecordLines
from .screen import Screen, settled
from .seen import Seen
from .terminal import harmless, shows_colors

# Smooth for the eye, and a small part of a core.
FRAME_S: Final = 1 / 15
ONE_LINE_MAX: Final = 78


class View(Protocol):
    """What shows a run to whoever started it."""

    def show(self, page: Sequence[Record]) -> None: ...
    async def animate(self) -> None:
        """What goes on between records; runs beside them until it is cancelled."""
        ...

    def ask(self, question: str) -> None:
        """Show a question; the answer is about to be typed."""
        ...

    def answered(self, answer: str) -> None: ...
    def notice(self, text: str) -> None:
        """Something about the run that isn't in its stream."""
        ...

    def close(self) -> None:
        """No more records come. May be called again."""
        ...

    def result(self, record: Record) -> None:
        """What the run has ended with."""
        ...


class LiveView:
    """For a person: the screen, drawn again and again; questions and answers stay above it."""

    def __init__(self, console: Console, seen: Seen, title: str, hint: str = "") -> None:
        self._console = console
        self._seen = seen
        self._screen = Screen(seen, title, hint)
        self._begun_s = time.monotonic()
        self._notice = ""
        self._asking = False
        self._live: Live | None = None
        self._start()

    def show(self, page: Sequence[Record]) -> None:
        now_s = time.monotonic()
        for record in page:
            self._seen.feed(record, now_s)

    async def animate(self) -> None:
        while True:
            self._frame()
            await asyncio.sleep(FRAME_S)

    def ask(self, question: str) -> None:
        self._asking = True
        self._stop(transient=True)
        for panel in settled(self._seen):
            self._console.print(panel)
        self._seen.writings.clear()
        self._console.print(Text.assemble(("? ", "bold cyan"), (question, "bold")))
        self._console.print("> ", end="")
        self._console.file.flush()

    def answered(self, answer: str) -> None:
        if not sys.stdin.isatty():
            self._console.print(harmless(answer))  # a terminal has shown it already
        self._asking = False
        self._start()

    def notice(self, text: str) -> None:
        self._notice = text
        if self._asking:
            self._console.print(Text("\n" + text, style="bold yellow"))

    def close(self) -> None:
        if self._asking:
            self._console.print()
            self._asking = False
            self._start()
        self._notice = ""
        self._frame(last=True)
        self._stop(transient=False)

    def result(self, record: Record) -> None:
        print_result(record, self._console)

    def _frame(self, *, last: bool = False) -> None:
        if self._live is None:
            return
        now_s = time.monotonic()
        footer = [f"{now_s - self._begun_s:.1f} s"]
        if not last:
            footer += [f"{self._seen.rate(now_s)} records/s", self._notice or "Ctrl-C cancels"]
        self._screen.footer = " · ".join(footer)
        self._live.refresh()

    def _start(self) -> None:
        self._live = Live(
            self._screen, console=self._console, auto_refresh=False, vertical_overflow="crop"
        )
        self._live.start()

    def _stop(self, *, transient: bool) -> None:
        if self._live is not None:
            self._live.transient = transient
            self._live.stop()
            self._live = None


class PlainView:
    """For pipes, files and teletypes: a line for each record, as `runstream tail` has it."""

    def __init__(self, out: IO[str], console: Console, run_id: str) -> None:
        self._out = out
        self._console = console
        self._lines = RecordLines(run_id, colors=shows_colors(console))

    def show(self, page: Sequence[Record]) -> None:
        click.echo("\n".join(self._lines.lines(page)), file=self._out, color=True)

    async def animate(self) -> None:
        """A line that is written stays as it is."""

    def ask(self, question: str) -> None:
        ask_beside(question)

    def answered(self, answer: str) -> None:
        """It is a record, which the next line shows."""

    def notice(self, text: str) -> None:
        click.echo(f"runstream: {text}", err=True)

    def close(self) -> None:
        """Nothing is open."""

    def result(self, record: Record) -> None:
        print_result(record, self._console)


class JsonView:
    """For programs: an envelope a line; the last one has the result."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def show(self, page: Sequence[Record]) -> None:
        lines = [encode_record(record).decode() for record in page]
        click.echo("\n".join(lines), file=self._out)

    async def animate(self) -> None:
        """Programs need no animation."""

    def ask(self, question: str) -> None:
        ask_beside(question)

    def answered(self, answer: str) -> None:
        """It is a record, which the next line shows."""

    def notice(self, text: str) -> None:
        click.echo(f"runstream: {text}", err=True)

    def close(self) -> None:
        """Nothing is open."""

    def result(self, record: Record) -> None:
        """It was shown, as the last record."""


def ask_beside(question: str) -> None:
    """Ask the person at the keyboard, if there is one, where the output goes elsewhere."""
    if sys.stdin is not None and sys.stdin.isatty():
        click.echo(f"? {question}\n> ", nl=False, err=True)


def print_result(record: Record, console: Console) -> None:
    """The result as JSON that people can read; in a terminal, text as the text that it is."""
    data: object = record.data
    fields = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
    result = fields.get("result")
    if result is None:
        if "result_repr" in fields:
            why = "too large to be stored" if fields.get("too_large") else "not JSON"
            console.print(f"{harmless(fields['result_repr'])}  ({why})", soft_wrap=True)
        return
    text = result if isinstance(result, str) and console.file.isatty() else pretty(result)
    console.print("\n".join(map(harmless, text.splitlines())), soft_wrap=True)


def pretty(value: object) -> str:
    """JSON in lines; what is short stays on one."""
    line = json.dumps(value, ensure_ascii=False)
    return line if len(line) <= ONE_LINE_MAX else json.dumps(value, indent=2, ensure_ascii=False)
