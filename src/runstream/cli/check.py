"""`runstream check`: which promises a log keeps, one line a promise."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import aclosing
from typing import Final, Self

import click
import msgspec
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from ..conformance import CHECKS, log_factory, run_checks
from ..conformance.check import CHECK_S_MAX, REMOTE_CHECK_S_MAX, Outcome
from ..logs import is_embedded
from .exit_codes import NOT_OK, OK
from .options import debug_option
from .terminal import can_redraw, command_line, harmless, is_watched, make_console, shown_url

# Signs, words and colours: each alone tells.
_VERDICTS: Final = {
    "kept": ("✓", "kept", "green"),
    "broken": ("✗", "broken", "bold red"),
    "not_applicable": ("-", "n/a", "dim"),
}

# More names than this are no help on a command line.
SHOWN_AGAIN_MAX: Final = 4

EXAMPLES: Final = """\b
Examples:
  runstream check memory:
  runstream check sqlite:check.db
  runstream check sqlite:check.db --only durability --only order
  runstream check sqlite:check.db --json

\b
Exit codes: 0 every promise is kept, 1 one is broken, 2 usage, 4 the log cannot
be used, 130 Ctrl-C.
"""


@click.command(epilog=EXAMPLES, short_help="Check that a log keeps every guarantee.")
@click.argument("url", metavar="URL")
@click.option(
    "--only",
    "names",
    multiple=True,
    metavar="NAME",
    help="Only this check, or the checks of this area. Repeatable.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line, for programs."
)
@debug_option
@click.pass_context
def check(context: click.Context, url: str, names: tuple[str, ...], as_json: bool) -> None:
    """Check that a log keeps every guarantee: order, durability, resuming and the rest.

    URL is the log, such as sqlite:check.db. The checks write small runs to it, of workflows called
    `conformance` or `check-…`, and leave its other runs alone.
    """
    known = {check.name for check in CHECKS} | {check.area for check in CHECKS}
    for name in names:
        if name not in known:
            areas = ", ".join(dict.fromkeys(check.area for check in CHECKS))
            raise click.UsageError(f"no check or area is called {name!r}; the areas are {areas}")
    kept = asyncio.run(_check(url, names, as_json=as_json))
    context.exit(OK if kept else NOT_OK)


async def _check(url: str, names: tuple[str, ...], *, as_json: bool) -> bool:
    """Whether every promise is kept, told one by one."""
    console = make_console()
    open_log = log_factory(url)
    async with open_log() as log:
        # A log that cannot be used at all is one error, not one for each promise.
        await log.list(limit=1)
    chosen = [check for check in CHECKS if not names or {check.name, check.area} & set(names)]
    counts: Counter[str] = Counter()
    broken: list[str] = []
    begun_s = time.monotonic()
    with Progress(console, [check.name for check in chosen], shown=not as_json) as progress:
        seconds_max = CHECK_S_MAX if is_embedded(url) else REMOTE_CHECK_S_MAX
        checks = run_checks(open_log, only=names or None, seconds_max=seconds_max)
        async with aclosing(checks) as outcomes:
            async for outcome in outcomes:
                counts[outcome.status] += 1
                if outcome.status == "broken":
                    broken.append(outcome.name)
                if as_json:
                    click.echo(msgspec.json.encode(outcome))
                else:
                    _print(console, outcome)
                progress.step()
    if not as_json:
        _close(console, url, counts, broken, time.monotonic() - begun_s)
    return not broken


class Progress:
    """The last line of a terminal while checks run: which one is it now. Elsewhere nothing."""

    def __init__(self, console: Console, names: list[str], *, shown: bool) -> None:
        self._names = names
        self._done = 0
        is_shown = shown and can_redraw(console)
        self._status = Status("", console=console) if is_shown else None

    def __enter__(self) -> Self:
        if self._status is not None:
            self._status.start()
            self._show()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._status is not None:
            self._status.stop()

    def step(self) -> None:
        """One check is done."""
        self._done += 1
        self._show()

    def _show(self) -> None:
        if self._status is not None and self._done < len(self._names):
            name = _spaced(self._names[self._done])
            at = f"{self._done + 1} of {len(self._names)}"
            self._status.update(Text.assemble((f"{at}  ", "dim"), name))


def _print(console: Console, outcome: Outcome) -> None:
    """One line; in a terminal a long reason goes on below itself."""
    sign, word, style = _VERDICTS[outcome.status]
    verdict = Text(f"{sign} {word:<6}", style)
    area = Text(f"{outcome.area:<10}", "dim")
    said = Text(_spaced(outcome.name))
    if outcome.why:
        style = "" if outcome.status == "broken" else "dim"
        said.append(f": {harmless(outcome.why)}", style=style)
    if is_watched(console):
        row = Table.grid(padding=(0, 2, 0, 0))
        row.add_row(verdict, area, said)
        console.print(row)
    else:
        console.print(Text("  ").join((verdict, area, said)), soft_wrap=True)


def _close(
    console: Console, url: str, counts: Counter[str], broken: list[str], took_s: float
) -> None:
    said = [f"{counts['kept']} kept", f"{counts['broken']} broken"]
    if counts["not_applicable"]:
        said.append(f"{counts['not_applicable']} not applicable")
    style = "bold red" if broken else "bold green"
    console.print()
    console.print(
        Text.assemble(
            f"{counts.total()} {'promise' if counts.total() == 1 else 'promises'}: ",
            (", ".join(said), style),
            f", {took_s:.1f} s",
        )
    )
    if 0 < len(broken) <= SHOWN_AGAIN_MAX:
        only = [word for name in broken for word in ("--only", name)]
        again = command_line("check", shown_url(url), *only)
        console.print(f"Check again what is broken:  {again}", soft_wrap=True)


def _spaced(name: str) -> str:
    # A check's name is its promise.
    return name.replace("_", " ")
