"""`runstream demo`: the main job in one look. A workflow runs, this terminal follows it live, and at the end
it says what was stored and how to follow it again.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from typing import Final

import click
from rich.console import Console
from rich.text import Text

from ..connection import connect
from ..demo import Demo
from ..events import RESERVED_PREFIXES
from ..handler import Handler
from ..record import Record
from ..run import new_run_id
from ..settings import default_url, read_settings
from ..streams import Streams
from .demo_lines import PlainLines
from .exit_codes import INTERRUPTED
from .options import debug_option, url_option
from .run_views import LiveView
from .seen import Seen
from .terminal import (
    can_redraw,
    command_line,
    is_on_path,
    is_watched,
    make_console,
    python_program,
)

EXAMPLES: Final = """\b
Examples:
  runstream demo                        in a terminal: live, then again if you like
  runstream demo --once | cat           ends by itself, as plain lines
  runstream demo --url sqlite:demo.db   keeps the run in a file of its own
"""


@click.command(epilog=EXAMPLES, short_help="See a run live, and how to follow it again.")
@click.option("--once", is_flag=True, help="Run once and end, without asking for more.")
@click.option(
    "--speed",
    type=click.FloatRange(0.1, 1000),
    default=1.0,
    metavar="X",
    help="X times as fast. Default: 1, which takes about six seconds.",
)
@url_option
@debug_option
@click.pass_context
def demo(context: click.Context, once: bool, speed: float, url: str | None) -> None:
    """See a workflow run live: steps, tokens, progress and tasks, published, stored and followed.

    Two stories are written at the same time. This terminal follows the run through the log, as any
    other would; at the end it says what was stored, and how to follow it again.
    """
    url = url or read_settings().url
    console = make_console()
    asks = not once and sys.stdin.isatty() and is_watched(console)
    while True:
        run_id = new_run_id()
        try:
            asyncio.run(_show(console, url, run_id, speed))
        except KeyboardInterrupt:
            again = command_line("tail", run_id, url=url)
            click.echo(f"\nStopped: the run is stored as cancelled.\nSee it:  {again}", err=True)
            context.exit(INTERRUPTED)
        if not (asks and _wants_more(console)):
            return


def _wants_more(console: Console) -> bool:
    try:
        console.input("\nEnter shows it again, Ctrl-C leaves. ")
    except (KeyboardInterrupt, EOFError):
        console.print()
        return False
    return True


async def _show(console: Console, url: str, run_id: str, speed: float) -> None:
    async with connect(url) as streams:
        begun_s = time.monotonic()
        handler = Demo().run(run_id=run_id, url=url, speed=speed)
        show = _draw(console, handler, url) if can_redraw(console) else _tell(handler, url)
        showing = asyncio.ensure_future(show)
        try:
            await asyncio.shield(showing)
        except asyncio.CancelledError:  # Ctrl-C: its end is stored, and shown, before this one
            await handler.cancel_run("Ctrl-C")
            await showing
            raise
        await _sum_up(console, streams, run_id, url, time.monotonic() - begun_s)


async def _draw(console: Console, handler: Handler, url: str) -> None:
    """Follow the run on the whole screen."""
    hint = "Another terminal can follow it now:  " + command_line("tail", "latest", url=url)
    view = LiveView(console, Seen(handler.run_id), f"runstream demo  run {handler.run_id}", hint)
    frames = asyncio.create_task(view.animate())
    try:
        async for page in handler.subscribe().pages():
            view.show(page)
    finally:
        frames.cancel()
        view.close()


async def _tell(handler: Handler, url: str) -> None:
    """Follow the run in plain lines."""
    click.echo(f"runstream demo: run {handler.run_id} in {url}")
    lines = PlainLines()
    async for record in handler.subscribe():
        line = lines.line(record)
        if line is not None:
            click.echo(line)


async def _sum_up(console: Console, streams: Streams, run_id: str, url: str, took_s: float) -> None:
    """Say what the log has of the run: read from it again, not remembered."""
    stored = [record async for record in streams.subscribe(run_id, follow=False)]
    kinds = Counter(map(_sort_of, stored))
    end = stored[-1]
    console.print()
    console.print(
        Text.assemble(
            ("✓ ", "bold green") if end.kind == "run.completed" else ("✗ ", "bold red"),
            (end.kind.removeprefix("run.").capitalize(), "bold"),
            f" in {took_s:.1f} s. {len(stored)} records are stored, each before it was shown:",
        ),
        soft_wrap=True,
    )
    console.print("  " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common()))
    console.print(f"  in {url}", style="dim", soft_wrap=True)
    if url.startswith("memory:"):
        console.print("A memory log ends with its process. Leave out --url to keep your runs.")
        return
    console.print("\nFollow it again, from any terminal:", style="bold")
    commands = {
        command_line("tail", run_id, url=url): "everything",
        command_line("tail", run_id, "--from", "10", "--kind", "token", url=url): "some tokens",
        command_line("ls", url=url): "all runs",
    }
    for command, what in commands.items():
        console.print(f"  # {what}", style="dim")
        console.print(f"  {command}", style="cyan", soft_wrap=True)
    where = "" if is_on_path() else f" ({python_program()})"
    console.print(f"\nOr from Python{where}:", style="bold")
    address = "" if url == default_url() else repr(url)
    for code in (
        "from runstream import connect",
        f"with connect({address}) as streams:",
        f'    for record in streams.subscribe("{run_id}"): print(record)',
    ):
        console.print("  " + code, style="cyan", soft_wrap=True)


def _sort_of(record: Record) -> str:
    """The kind; our own ones together."""
    prefix, dot, _ = record.kind.partition(".")
    return f"{prefix}.*" if dot and record.kind.startswith(RESERVED_PREFIXES) else record.kind
