"""`runstream top`: what a server is doing now, in this terminal."""

from __future__ import annotations

import itertools
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..api import V1, RunBody, RunList
from ..errors import Forbidden, LogUnavailable, NotALog
from ..logs import with_secrets_hidden
from ..settings import read_settings
from .figures import Figures, per_second, quantile
from .ls import STATUS_STYLES
from .options import debug_option, server_option
from .server_call import call_server
from .terminal import can_redraw, harmless, make_console

# Runs that are asked for to find the busiest among them.
RUNS_MAX: Final = 200
RUNS_SHOWN: Final = 10
# Samples in the little graphs.
HISTORY: Final = 36
_BARS: Final = "▁▂▃▄▅▆▇█"

EXAMPLES: Final = """\b
Examples:
  runstream top --url http://127.0.0.1:4747
  RUNSTREAM_TOKEN=rsk_… runstream top --url https://runs.example.com
  runstream top --url http://127.0.0.1:4747 --count 1      one line, for a script

\b
The token needs the scope `metrics`, and `runs:read` to list runs. Ctrl-C stops it. In a
pipe, each update is one line.
"""


@dataclass(slots=True)
class Look:
    """What one look at the server found; `runs` is None if the token may not see them."""

    figures: Figures
    runs: list[RunBody] | None


@dataclass(slots=True)
class History:
    """The looks so far, as far as they are shown."""

    before: Look
    now: Look
    records_in: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))
    records_out: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def add(self, look: Look) -> None:
        self.before, self.now = self.now, look
        self.records_in.append(self.rate("runstream_records_in_total"))
        self.records_out.append(self.rate("runstream_records_out_total"))

    def rate(self, name: str) -> float:
        return per_second(name, self.before.figures, self.now.figures)

    def quantile_ms(self, name: str, share: float) -> str:
        found = quantile(name, share, self.before.figures, self.now.figures)
        return "-" if found is None else f"{found * 1000:.1f} ms"


@click.command(epilog=EXAMPLES, short_help="Show what a server is doing, live.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between two updates.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="Stop after this many updates.")
@server_option
@debug_option
def top(interval: float, count: int | None, url: str | None) -> None:
    """Show what a server is doing: records in and out, subscribers, lag, the busiest runs."""
    url = url or read_settings().url
    console = make_console()
    first = look(url)
    history = History(first, first)
    rounds = range(count) if count is not None else itertools.count()
    if not can_redraw(console):
        for _ in rounds:
            time.sleep(interval)
            history.add(look(url))
            click.echo(line(history))
        return
    with Live(console=console, auto_refresh=False, screen=count is None) as live:
        for _ in rounds:
            live.update(_screen(history, url, console, ""), refresh=True)
            time.sleep(interval)
            trouble = ""
            try:
                history.add(look(url))
            except LogUnavailable as error:
                trouble = str(error)  # it may come back: a restart is what one wants to watch
            live.update(_screen(history, url, console, trouble), refresh=True)


def look(url: str) -> Look:
    """Ask the server. Raises what `call_server` raises; NotALog if the figures are not ours."""
    text = call_server(url, "GET", "/metrics").decode("utf-8", "replace")
    figures = Figures(text, time.monotonic())
    if "runstream_records_in_total" not in figures:
        raise NotALog(f"{with_secrets_hidden(url)} has no figures of Runstream")
    try:
        page = call_server(url, "GET", f"{V1}/runs?status=running&limit={RUNS_MAX}")
        runs = msgspec.json.decode(page, type=RunList).runs
    except Forbidden:
        runs = None
    return Look(figures, runs)


def line(history: History) -> str:
    """One look as `name=value` words, the units in the names."""
    figures = history.now.figures
    words = {
        "records_in_per_s": f"{history.rate('runstream_records_in_total'):.0f}",
        "records_out_per_s": f"{history.rate('runstream_records_out_total'):.0f}",
        "subscribers": f"{figures.total('runstream_subscribers'):.0f}",
        "lag_records_max": f"{figures.total('runstream_subscriber_lag_records_max'):.0f}",
        "open_runs": f"{figures.total('runstream_open_runs'):.0f}",
        "dropped": f"{figures.total('runstream_records_dropped_total'):.0f}",
    }
    return " ".join(f"{name}={value}" for name, value in words.items())


def _screen(history: History, url: str, console: Console, trouble: str) -> RenderableType:
    return Group(
        Text.assemble(
            ("runstream top ", "bold"),
            (harmless(with_secrets_hidden(url)), "cyan"),
            (f"  {time.strftime('%H:%M:%S')}", "dim"),
        ),
        Text(harmless(trouble), style="red") if trouble else Text(""),
        _flow(history),
        _state(history),
        Text(""),
        _busiest(history, max(console.height - 13, 3)),
    )


def _flow(history: History) -> Text:
    figures = history.now.figures
    subscribers = figures.total("runstream_subscribers")
    behind = figures.total("runstream_subscriber_lag_records_max")
    half, most = (history.quantile_ms("runstream_append_seconds", share) for share in (0.5, 0.99))
    flow = Text(no_wrap=True)
    for name, rates, detail in (
        ("in", history.records_in, f"durable in {half} (half), {most} (99 %)"),
        (
            "out",
            history.records_out,
            f"{subscribers:,.0f} subscribers, the last {behind:,.0f} records behind",
        ),
    ):
        records = f"{history.rate(f'runstream_records_{name}_total'):,.0f} records/s"
        size = f"{_size(history.rate(f'runstream_bytes_{name}_total'))}/s"
        flow.append(f"{name:<10}{records:>18}{size:>12}   ")
        flow.append(f"{bars(rates)}\n", style="green")
        flow.append(f"{'':<10}{detail}\n", style="dim")
    return flow


def _state(history: History) -> Table:
    figures = history.now.figures
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 3, 0, 0))
    runs = figures.by("runstream_open_runs", "status")
    open_runs = ", ".join(f"{count:,.0f} {status}" for status, count in sorted(runs.items()))
    table.add_row("runs", open_runs or "none open")
    failed = sum(
        count
        for status, count in figures.by("runstream_requests_total", "status").items()
        if status.startswith("5")
    )
    troubles = (
        (figures.total("runstream_records_dropped_total"), "records dropped by producers"),
        (figures.total("runstream_gaps_total"), "gaps"),
        (figures.total("runstream_subscribers_cut_total"), "subscribers cut off"),
        (figures.total("runstream_leases_expired_total"), "abandoned runs"),
        (failed, "failed requests (5xx)"),
    )
    told = ", ".join(f"{count:,.0f} {what}" for count, what in troubles if count)
    table.add_row("trouble", Text(told or "none", style="yellow" if told else "dim"))
    if "process_resident_memory_bytes" in figures:
        table.add_row(
            "server",
            f"{history.rate('process_cpu_seconds_total') * 100:.0f} % of a core, "
            f"{_size(figures.total('process_resident_memory_bytes'))}, "
            f"{history.rate('runstream_requests_total'):,.0f} requests/s",
        )
    return table


def _busiest(history: History, rows: int) -> RenderableType:
    if history.now.runs is None:
        return Text("The token does not allow runs:read, so no runs are shown.", style="dim")
    known = {run.run_id: run.last_seq for run in history.before.runs or ()}
    seconds = max(history.now.figures.moment - history.before.figures.moment, 1e-9)
    rates = sorted(
        (
            ((run.last_seq - known.get(run.run_id, run.last_seq)) / seconds, run)
            for run in history.now.runs
            if run.run_id == run.root_run_id
        ),
        key=lambda found: (-found[0], found[1].run_id),
    )
    if not rates:
        return Text("No run is running.", style="dim")
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("RUN", overflow="fold")
    table.add_column("WORKFLOW", no_wrap=True)
    table.add_column("STATUS", no_wrap=True)
    for name in ("RECORDS/S", "RECORDS"):
        table.add_column(name, justify="right", no_wrap=True)
    for rate, run in rates[: min(rows, RUNS_SHOWN)]:
        style = next((style for status, style in STATUS_STYLES.items() if status == run.status), "")
        table.add_row(
            harmless(run.run_id),
            harmless(run.workflow),
            Text(harmless(run.status), style=style),
            f"{rate:,.0f}",
            f"{run.last_seq:,}",
        )
    return table


def bars(values: deque[float]) -> str:
    """A little graph, a character a value, the highest as high as the line."""
    highest = max(values, default=0.0)
    if highest <= 0:
        return _BARS[0] * len(values)
    return "".join(_BARS[min(int(value / highest * 7 + 0.5), 7)] for value in values)


def _size(size_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size_bytes < 1000:  # noqa: PLR2004 - the step between the units
            return f"{size_bytes:.3g} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.3g} GB"
