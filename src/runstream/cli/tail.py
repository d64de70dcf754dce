"""`runstream tail`: the records of a run in this terminal, history first, then live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Final

import click

from ..connection import connect
from ..errors import RunNotFound
from ..log import RunInfo
from ..record import Record
from ..settings import read_settings
from ..streams import Streams
from ..subscription import Subscription
from ..wire import encode_record
from .exit_codes import INTERRUPTED, RUN_NOT_FOUND, exit_code_of_run
from .options import Problem, debug_option, url_option
from .record_line import RecordLines
from .terminal import command_line, harmless, is_watched, make_console, shown_url, shows_colors

LATEST: Final = "latest"
# Between two looks for a first run (`tail latest --wait`): nothing tells that one has begun.
LOOK_FOR_RUN_S: Final = 0.2
# Children that a run may have started last and still be found as the newest one.
LATEST_AMONG: Final = 1000

EXAMPLES: Final = """\b
Examples:
  runstream tail latest                     the newest run, live
  runstream tail nightly-7 --last 20        its 20 newest records, then live
  runstream tail nightly-7 --kind token     tokens only (and losses, and its end)
  runstream tail nightly-7 --json           one JSON object a line, for programs
  runstream tail nightly-7 --no-follow      what is stored now, and no more

\b
Exit codes: 0 the run completed (or still runs, with --no-follow); 1 it failed,
was cancelled, timed out or was lost; 2 usage; 3 no such run; 4 the log cannot
be used; 130 Ctrl-C.
"""


@click.command(epilog=EXAMPLES, short_help="Show the records of a run, stored and live.")
@click.argument("run", metavar="RUN")
@click.option("--from", "from_seq", type=click.IntRange(0), metavar="N", help="Begin at record N.")
@click.option("--after", metavar="CURSOR", help="Begin after this cursor (record.cursor).")
@click.option(
    "--last",
    type=click.IntRange(0),
    metavar="N",
    help="Begin with the last N records that pass the filters.",
)
@click.option("--kind", "kinds", multiple=True, help="Only records of this kind. Repeatable.")
@click.option("--topic", "topics", multiple=True, help="Only records of this topic. Repeatable.")
@click.option("--step", "steps", multiple=True, help="Only records of this step. Repeatable.")
@click.option(
    "--correlation-id",
    "ids",
    multiple=True,
    help="Only records with this correlation id. Repeatable.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line, for programs."
)
@click.option("--no-follow", is_flag=True, help="Stop after what is stored now.")
@click.option("--wait", is_flag=True, help="Wait for the run if it does not exist yet.")
@url_option
@debug_option
@click.pass_context
def tail(
    context: click.Context,
    run: str,
    from_seq: int | None,
    after: str | None,
    last: int | None,
    kinds: tuple[str, ...],
    topics: tuple[str, ...],
    steps: tuple[str, ...],
    ids: tuple[str, ...],
    as_json: bool,
    no_follow: bool,
    wait: bool,
    url: str | None,
) -> None:
    """Show the records of a run: first those that are stored, then new ones live, until the run ends.

    RUN is the id of a run (`runstream ls` shows them), or `latest` for the newest one.
    """
    if sum(value is not None for value in (from_seq, after, last)) > 1:
        raise click.UsageError("give only one of --from, --after and --last")

    def subscribe(streams: Streams, run_id: str) -> Subscription:
        return streams.subscribe(
            run_id,
            kinds=kinds or None,
            topics=topics or None,
            steps=steps or None,
            correlation_ids=ids or None,
            from_seq=from_seq,
            after=after,
            last=last,
            follow=not no_follow,
            wait=wait,
        )

    filters = {"--kind": kinds, "--topic": topics, "--step": steps, "--correlation-id": ids}
    url = url or read_settings().url
    following = Following(url, run, subscribe, as_json=as_json, wait=wait)
    try:
        asyncio.run(following.follow())
    except RunNotFound as error:
        raise Problem(_not_found(run, url), RUN_NOT_FOUND) from error
    except KeyboardInterrupt:
        following.say_how_to_go_on(filters)
        context.exit(INTERRUPTED)
    context.exit(following.exit_code())


class Following:
    """One run on its way to stdout. `newest` is the last record that was printed."""

    def __init__(
        self,
        url: str,
        run: str,
        subscribe: Callable[[Streams, str], Subscription],
        *,
        as_json: bool,
        wait: bool,
    ) -> None:
        self.newest: Record | None = None
        self._url = url
        self._run = run
        self._subscribe = subscribe
        self._as_json = as_json
        self._wait = wait
        self._console = make_console()
        self._lines: RecordLines | None = None

    async def follow(self) -> None:
        """Print the run until it ends, or what is stored of it has been shown.

        Raises:
            RunNotFound: it is not there, and is not waited for.
        """
        async with connect(self._url) as streams:
            run_id = self._run
            if run_id == LATEST:
                run_id = self._run = await _latest(streams, wait=self._wait)
            await self._introduce(streams)
            async with aclosing(self._subscribe(streams, run_id).pages()) as pages:
                async for page in pages:
                    self._print(page)

    def exit_code(self) -> int:
        newest = self.newest
        if newest is not None and newest.is_gap:
            return RUN_NOT_FOUND  # removed from the log before its end could be read
        ended = newest is not None and newest.is_terminal and newest.run_id == self._run
        return exit_code_of_run(newest if ended else None)

    def say_how_to_go_on(self, filters: Mapping[str, Sequence[str]]) -> None:
        """After Ctrl-C, for a person: nothing is lost by stopping."""
        console = make_console(stderr=True)
        if self.newest is None or not is_watched(console):
            return
        words = [word for name, values in filters.items() for one in values for word in (name, one)]
        where = ("--after", self.newest.cursor)
        again = command_line("tail", self._run, *words, *where, url=self._url)
        console.print(f"\nGo on where you stopped:  {again}", soft_wrap=True)

    async def _introduce(self, streams: Streams) -> None:
        """For a person: what this is, or what is being waited for."""
        if not is_watched(self._console) or self._as_json:
            return
        try:
            info = await streams.info(self._run)
        except RunNotFound:
            text = f"waiting for run {harmless(self._run)} …" if self._wait else ""
        else:
            text = _title(info)
        if text:
            self._console.print(text, style="dim", soft_wrap=True)

    def _print(self, page: list[Record]) -> None:
        self.newest = page[-1]
        if self._as_json:
            click.echo(b"\n".join(map(encode_record, page)))
            return
        if self._lines is None:
            self._lines = RecordLines(self._run, colors=shows_colors(self._console))
        # Asked for each page: a terminal may have been resized meanwhile.
        width = self._console.width if is_watched(self._console) else None
        # Our own decision on colours holds, whatever click thinks of the stream.
        click.echo("\n".join(self._lines.lines(page, width)), color=True)


async def _latest(streams: Streams, *, wait: bool) -> str:
    while True:
        for info in await streams.list_runs(limit=LATEST_AMONG):
            if info.parent_run_id is None:
                return info.run_id
        if not wait:
            raise RunNotFound("there is no run yet")
        await asyncio.sleep(LOOK_FOR_RUN_S)


def _title(info: RunInfo) -> str:
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(info.created / 1_000_000))
    return f"run {info.run_id} of {harmless(info.workflow)}, begun {begun}, {info.status}"


def _not_found(run: str, url: str) -> str:
    demo = command_line("demo", url=url)
    shown = shown_url(url)
    if run == LATEST:
        return f"there is no run yet in {shown}; start one (`{demo}`), or wait for it with --wait"
    runs = command_line("ls", url=url)
    return f"there is no run {run!r} in {shown}; `{runs}` shows the runs, --wait waits for this one"
