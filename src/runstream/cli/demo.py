"""`runstream demo`: the main job in one look. A workflow publishes through a server, this terminal follows it
live over SSE, and at the end it says what was stored and how to follow it again.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
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
from .demo_server import DemoServer, can_serve
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
    shown_url,
)

EXAMPLES: Final = """\b
Examples:
  runstream demo                        in a terminal: live, then again if you like
  runstream demo --once | cat           ends by itself, prints plain lines
  runstream demo --url sqlite:demo.db   stores the run in a file of its own
"""


@click.command(
    epilog=EXAMPLES, short_help="Watch a sample run live, and learn how to follow it again."
)
@click.option("--once", is_flag=True, help="Run once and exit, without offering to run again.")
@click.option(
    "--speed",
    type=click.FloatRange(0.1, 1000),
    default=1.0,
    metavar="X",
    help="How many times as fast. Default: 1, which takes about six seconds.",
)
@click.option(
    "--server/--no-server",
    default=None,
    help="Publish through a server, which browsers can open, or straight to the log. Default: through a "
    "server, if the extras `server` and `http` are installed.",
)
@url_option
@debug_option
@click.pass_context
def demo(
    context: click.Context, once: bool, speed: float, server: bool | None, url: str | None
) -> None:
    """Watch a workflow live: its steps, tokens, progress and tasks are published, stored and followed.

    Two stories are written at the same time. This terminal follows the run over HTTP, as any other terminal
    or a browser can. At the end, the demo says what was stored and how to follow it again.
    """
    url = url or read_settings().url
    console = make_console()
    asks = not once and sys.stdin.isatty() and is_watched(console)
    if server is None:
        server = can_serve() and not url.startswith(_NOT_SERVED)
    with DemoServer(url) if server else nullcontext() as serving:
        way = Way(url, serving)
        while True:
            run_id = new_run_id()
            try:
                asyncio.run(_show(console, way, run_id, speed))
            except KeyboardInterrupt:
                again = command_line("tail", run_id, url=url)
                click.echo(
                    f"\nStopped: the run is stored as cancelled.\nSee it:  {again}", err=True
                )
                context.exit(INTERRUPTED)
            if not (asks and _wants_more(console)):
                return


# A memory log is in one process alone, and a server needs no other one in front.
_NOT_SERVED: Final = ("memory:", "http:", "https:")


@dataclass(frozen=True)
class Way:
    """How the records get from the run into the log and to this terminal."""

    log_url: str
    server: DemoServer | None

    @property
    def url(self) -> str:
        return self.log_url if self.server is None else self.server.url


def _wants_more(console: Console) -> bool:
    try:
        console.input("\nEnter shows it again, Ctrl-C leaves. ")
    except (KeyboardInterrupt, EOFError):
        console.print()
        return False
    return True


async def _show(console: Console, way: Way, run_id: str, speed: float) -> None:
    async with connect(way.url) as streams:
        begun_s = time.monotonic()
        handler = Demo().run(run_id=run_id, url=way.url, speed=speed)
        show = _draw(console, handler, way) if can_redraw(console) else _tell(handler, way)
        showing = asyncio.ensure_future(show)
        try:
            await asyncio.shield(showing)
        except asyncio.CancelledError:  # Ctrl-C: its end is stored, and shown, before this one
            await handler.cancel_run("Ctrl-C")
            await showing
            raise
        await _sum_up(console, streams, run_id, way, time.monotonic() - begun_s)


async def _draw(console: Console, handler: Handler, way: Way) -> None:
    """Follow the run on the whole screen."""
    hint = "Another terminal can follow it now:  " + command_line("tail", "latest", url=way.log_url)
    if way.server is not None:
        hint = f"In a browser:  {way.server.console_url(handler.run_id)}\n{hint}"
    view = LiveView(console, Seen(handler.run_id), f"runstream demo  run {handler.run_id}", hint)
    frames = asyncio.create_task(view.animate())
    try:
        async for page in handler.subscribe().pages():
            view.show(page)
    finally:
        frames.cancel()
        view.close()


async def _tell(handler: Handler, way: Way) -> None:
    """Follow the run in plain lines, the first of which say where else it can be followed."""
    lines = PlainLines()
    is_told = False
    async for record in handler.subscribe():
        if not is_told:  # now it is there for whoever goes to these addresses at once
            _tell_where(handler.run_id, way)
            is_told = True
        line = lines.line(record)
        if line is not None:
            click.echo(line)


def _tell_where(run_id: str, way: Way) -> None:
    click.echo(f"runstream demo: run {run_id} in {shown_url(way.log_url)}")
    if way.server is not None:
        click.echo(f"console: {way.server.console_url(run_id)}")
        click.echo(f"events:  {_curl(way.server, run_id)}")


def _curl(server: DemoServer, run_id: str) -> str:
    return f"curl -N -H 'accept: text/event-stream' {server.events_url(run_id)}"


async def _sum_up(console: Console, streams: Streams, run_id: str, way: Way, took_s: float) -> None:
    """Say what the log has of the run: read from it again, not remembered."""
    url = way.log_url
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
    console.print(f"  in {shown_url(url)}", style="dim", soft_wrap=True)
    if url.startswith("memory:"):
        console.print("A memory log ends with its process. Leave out --url to keep your runs.")
        return
    console.print("\nFollow it again, from any terminal:", style="bold")
    commands = {
        command_line("tail", run_id, url=url): "everything",
        command_line("tail", run_id, "--from", "10", "--kind", "token", url=url): "some tokens",
        command_line("ls", url=url): "all runs",
    }
    if way.server is not None:
        commands[command_line("serve", url=url)] = "a server again, for browsers and curl"
    for command, what in commands.items():
        console.print(f"  # {what}", style="dim")
        console.print(f"  {command}", style="cyan", soft_wrap=True)
    if way.server is not None:
        console.print("\nWhile this demo is open, in a browser, or by hand:", style="bold")
        for line in (way.server.console_url(run_id), _curl(way.server, run_id)):
            console.print(f"  {line}", style="cyan", soft_wrap=True)
    where = "" if is_on_path() else f" ({python_program()})"
    console.print(f"\nOr from Python{where}:", style="bold")
    address = "" if url == default_url() else repr(shown_url(url))
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
