"""`runstream rm`: remove finished runs from a log."""

from __future__ import annotations

import asyncio
from typing import Final

import click

from ..connection import connect
from ..errors import InvalidInput, RunNotFound, RunstreamError
from ..settings import read_settings
from .options import debug_option, url_option
from .terminal import harmless

EXAMPLES: Final = """\b
Examples:
  runstream rm nightly-7
  runstream ls --workflow demo --json | jq -r .run_id | xargs runstream rm
"""


@click.command(epilog=EXAMPLES, short_help="Permanently remove runs that have ended.")
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN...")
@url_option
@debug_option
def rm(run_ids: tuple[str, ...], url: str | None) -> None:
    """Permanently remove runs that have ended, with their children and all of their records.

    A run that has not ended is refused, and so is a child without its root; the other runs are still removed.
    Runs are also removed automatically, 30 days after their end unless the log's URL says otherwise.
    """
    asyncio.run(_remove(url or read_settings().url, run_ids))


async def _remove(url: str, run_ids: tuple[str, ...]) -> None:
    refused: list[RunstreamError] = []
    async with connect(url) as streams:
        for run_id in run_ids:
            try:
                await streams.remove_run(run_id)
            except (InvalidInput, RunNotFound) as error:
                refused.append(error)
    for one in refused[:-1]:
        click.echo(f"runstream: {harmless(str(one))}", err=True)
    if refused:
        raise refused[-1]
