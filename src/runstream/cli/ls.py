"""`runstream ls`: the runs of a log, newest first."""

from __future__ import annotations

import asyncio
from typing import Final, cast, get_args

import click
from rich.table import Table
from rich.text import Text

from ..connection import connect
from ..log import RunInfo, Status
from ..record import now_us
from ..settings import read_settings
from ..wire import encode_run
from .options import debug_option, url_option
from .terminal import command_line, harmless, is_watched, make_console, shown_url

# A screen of runs; programs (--json) get them all.
LIMIT_ON_SCREEN: Final = 20

STATUS_STYLES: Final[dict[Status, str]] = {
    "running": "cyan",
    "waiting": "blue",
    "stalled": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "yellow",
    "timed_out": "yellow",
    "lost": "red",
}

_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))

EXAMPLES: Final = """\b
Examples:
  runstream ls                              the newest runs
  runstream ls --status running             what is running now
  runstream ls --workflow demo --limit 100
  runstream ls --json                       all runs, one JSON object a line
"""


@click.command(epilog=EXAMPLES)
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option("--status", type=click.Choice(get_args(Status)), help="Only runs with this status.")
@click.option(
    "--limit",
    type=click.IntRange(1),
    metavar="N",
    help=f"At most N runs. Default: {LIMIT_ON_SCREEN}, or all with --json.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line, for programs."
)
@url_option
@debug_option
def ls(
    workflow: str | None, status: str | None, limit: int | None, as_json: bool, url: str | None
) -> None:
    """List the runs of a log, newest first."""
    url = url or read_settings().url
    if as_json:
        runs = asyncio.run(_runs(url, workflow, cast(Status | None, status), limit))
        if runs:
            click.echo(b"\n".join(map(encode_run, runs)))
        return
    limit = limit or LIMIT_ON_SCREEN
    # One more tells whether there are more.
    runs = asyncio.run(_runs(url, workflow, cast(Status | None, status), limit + 1))
    if runs:
        _show(runs[:limit], more=len(runs) > limit)
    else:
        _say_none(url, filtered=bool(workflow or status))


async def _runs(
    url: str, workflow: str | None, status: Status | None, limit: int | None
) -> list[RunInfo]:
    async with connect(url) as streams:
        return await streams.list_runs(workflow=workflow, status=status, limit=limit)


def _show(runs: list[RunInfo], *, more: bool) -> None:
    console = make_console()
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    # An id that is cut short cannot be pasted; a long name can be told by its beginning.
    table.add_column("RUN", overflow="fold")
    table.add_column("WORKFLOW", no_wrap=True)
    table.add_column("STATUS", no_wrap=True)
    for name in ("BEGUN", "TOOK", "RECORDS"):
        table.add_column(name, justify="right", no_wrap=True)
    now = now_us()
    for info in runs:
        is_child = info.parent_run_id is not None
        table.add_row(
            info.run_id,
            Text(harmless(info.workflow)).append(" (child)" if is_child else "", style="dim"),
            Text(info.status, style=STATUS_STYLES[info.status]),
            f"{roughly(now - info.created)} ago",
            duration((info.ended or now) - info.created),
            # A child's records are numbered with its root's, so their number isn't known here.
            "" if is_child else f"{info.last_seq:,}",
        )
    console.print(table)
    if more and is_watched(console):
        console.print(f"… and older ones: --limit {10 * len(runs)} shows more", style="dim")


def _say_none(url: str, *, filtered: bool) -> None:
    console = make_console(stderr=True)
    if filtered:
        console.print(f"No such run in {harmless(shown_url(url))}.", soft_wrap=True)
        return
    console.print(f"No run yet in {harmless(shown_url(url))}.", soft_wrap=True)
    console.print(f"See one: {command_line('demo', url=url)}", soft_wrap=True)


def roughly(time_us: int) -> str:
    """A time span in its largest unit: `3 min`."""
    seconds = max(time_us, 0) // 1_000_000
    size, unit = next((unit for unit in _UNITS if seconds >= unit[0]), _UNITS[-1])
    return f"{seconds // size} {unit}"


def duration(time_us: int) -> str:
    """A time span as precisely as it is read: `42 ms`, `3 min 20 s`, `2 h 5 min`."""
    seconds, us = divmod(max(time_us, 0), 1_000_000)
    if seconds == 0:
        return f"{us / 1000:.3g} ms"
    number = next((n for n, unit in enumerate(_UNITS) if seconds >= unit[0]), len(_UNITS) - 1)
    size, unit = _UNITS[number]
    if size == 1:
        return f"{seconds + us / 1_000_000:.3g} s"
    smaller, smaller_unit = _UNITS[number + 1]
    return f"{seconds // size} {unit} {seconds % size // smaller} {smaller_unit}"
