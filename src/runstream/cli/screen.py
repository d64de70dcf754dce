"""The live screen of a run: its steps, texts, progress, tasks and messages, in the room that there is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, cast

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..fold import TaskState
from .ls import STATUS_STYLES, duration
from .record_line import compact
from .seen import Seen, StepSeen, Writing
from .terminal import harmless

COLORS: Final = ("cyan", "magenta", "green", "blue", "yellow")
CURSOR: Final = " ▍"
# A text that gets no token for so long seems to be finished.
PAUSE_S_MAX: Final = 1.5
SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
SPINS_PER_S: Final = 10
MINUTE_S: Final = 60
# What is shorter is noise.
SHORTEST_S: Final = 0.001

TEXT_LINES_MAX: Final = 9
TEXT_LINES_MIN: Final = 3
# Texts that are kept above a question.
SETTLED_MAX: Final = 4
BORDER_LINES: Final = 2
TASK_LINES: Final = 2 + BORDER_LINES
NAME_WIDTH_MAX: Final = 24
# Narrower than this, two panels side by side hold no sentence.
SIDE_BY_SIDE_WIDTH: Final = 60


class Screen:
    """The whole screen, for `rich.live`. `footer` ends its last line."""

    def __init__(self, seen: Seen, title: str, hint: str = "") -> None:
        self.footer = ""
        self._seen = seen
        self._title = title
        self._hint = hint

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        seen, width = self._seen, options.max_width
        columns = 2 if width >= SIDE_BY_SIDE_WIDTH else 1
        # Beside the title, the status, and the line of the cursor.
        left = max(console.height - 3, 1)
        parts: list[RenderableType] = []
        hint_lines = sum(_rows(cell_len(line), width) for line in self._hint.splitlines())
        if left - hint_lines > TEXT_LINES_MAX:
            parts += [Text(self._hint, style="dim", overflow="fold")] if hint_lines else []
            left -= hint_lines + (hint_lines > 1)  # wrapping at words may take one line more
        steps = _chosen(list(seen.steps.values()), max(left // 3, 1))
        bars = sorted(list(seen.bars.items())[-max(left // 6, 1) :])
        left -= len(steps) + len(bars)
        task_rows = min(_rows(len(seen.tasks), columns), max(left, 0) // (2 * TASK_LINES + 1))
        left -= task_rows * TASK_LINES
        text_rows = min(_rows(len(seen.writings), columns), _text_rows(left))
        parts += [_steps(steps, time.monotonic())] if steps else []
        if text_rows:
            lines = min(left // text_rows - BORDER_LINES, TEXT_LINES_MAX)
            texts = _newest(seen, text_rows * columns)
            inner = width // min(columns, len(texts)) - 5
            parts.append(
                _side_by_side([self._text(console, *one, lines, inner) for one in texts], columns)
            )
            left -= text_rows * (lines + BORDER_LINES)
        parts += [_bars(bars)] if bars else []
        if task_rows:
            tasks = _chosen_tasks(list(seen.tasks.values()), task_rows * columns)
            parts.append(_side_by_side([_task(task) for task in tasks], columns))
        said = list(seen.said)[-left:] if left > 0 else []
        parts += [_line((f"{kind}  ", "dim"), what) for kind, what in said]
        yield Group(_line((self._title, "bold")), *parts, self._status())

    def _text(
        self,
        console: Console,
        number: int,
        named: tuple[str, Writing],
        lines: int,
        width: int,
    ) -> Panel:
        name, writing = named
        color = COLORS[number % len(COLORS)]
        text = Text(_end_of(writing.text.rstrip(), lines * max(width, 1)))
        wrapped = text.wrap(console, max(width - len(CURSOR), 1))
        is_written = time.monotonic() - writing.at_s < PAUSE_S_MAX
        if self._seen.status == "running" and is_written and wrapped:
            wrapped[-1].append(CURSOR, style=color)
        return Panel(
            Text("\n").join(wrapped[-lines:]),
            title=Text(name, style=f"bold {color}"),
            subtitle=Text(f"{writing.tokens} tokens", style="dim"),
            title_align="left",
            subtitle_align="right",
            border_style=color,
            height=lines + BORDER_LINES,
        )

    def _status(self) -> Text:
        seen = self._seen
        return _line(
            (seen.status.replace("_", " "), f"bold {STATUS_STYLES[seen.status]}"),
            f" · record {seen.seq}",
            (f" · {seen.lost} records lost" if seen.lost else "", "bold yellow"),
            (f" · {self.footer}" if self.footer else "", "dim"),
        )


def settled(seen: Seen) -> list[RenderableType]:
    """What has been written so far, whole, for the lines above a question."""
    return [
        Panel(
            Text(writing.text.rstrip()),
            title=Text(name, style=f"bold {COLORS[number % len(COLORS)]}"),
            title_align="left",
            border_style=COLORS[number % len(COLORS)],
        )
        for number, (name, writing) in _newest(seen, SETTLED_MAX)
    ]


def _newest(seen: Seen, count: int) -> list[tuple[int, tuple[str, Writing]]]:
    """The texts that grew last, by name, each with the number of its colour."""
    numbered = list(enumerate(seen.writings.items()))
    newest = sorted(numbered, key=lambda one: one[1][1].at_s)[-count:]
    return sorted(newest, key=lambda one: one[1][0])


# --- steps ---------------------------------------------------------------------------------------


def _chosen(steps: list[StepSeen], room: int) -> list[StepSeen]:
    """As many as there is room for: those at work, else the newest."""
    ranked = sorted(range(len(steps)), key=lambda at: (bool(steps[at].running), at))
    return [steps[at] for at in sorted(ranked[-room:])]


def _chosen_tasks(tasks: list[TaskState], room: int) -> list[TaskState]:
    ranked = sorted(range(len(tasks)), key=lambda at: (tasks[at].status == "running", at))
    return [tasks[at] for at in sorted(ranked[-room:])]


def _steps(steps: list[StepSeen], now_s: float) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    width = min(max(cell_len(step.name) for step in steps), NAME_WIDTH_MAX)
    table.add_column(no_wrap=True, width=width, overflow="ellipsis")
    table.add_column(no_wrap=True, overflow="ellipsis")
    for step in steps:
        sign, style = _sign(step, now_s)
        table.add_row(Text(sign, style), Text(step.name), _work(step, now_s))
    return table


def _sign(step: StepSeen, now_s: float) -> tuple[str, str]:
    if step.failed:
        return "✗", "bold red"
    if step.retrying:
        return "↻", "bold yellow"
    if step.running:
        return SPINNER[int(now_s * SPINS_PER_S) % len(SPINNER)], "cyan"
    return ("-", "yellow") if step.cancelled else ("✓", "green")


def _work(step: StepSeen, now_s: float) -> Text:
    said: list[str | tuple[str, str]] = []
    if len(step.running) == 1:
        (begun_s,) = step.running.values()
        said.append((f"running {_seconds(now_s - begun_s)}", "cyan"))
    elif step.running:
        said.append((f"{len(step.running)} running", "cyan"))
    if step.done:
        times = f"{step.done}×" if step.done > 1 else ""
        last = "" if step.took_s is None else f"{', last ' if times else 'in '}{took(step.took_s)}"
        said.append((f"done {times}{last}".strip(), "dim"))
    for why, until_s in list(step.retrying.values())[:1]:
        others = f" ({len(step.retrying)} wait)" if len(step.retrying) > 1 else ""
        wait = f"again in {_seconds(max(until_s - now_s, 0))}"
        said.append((f"{wait}{others}: {why}", "yellow"))
    if step.cancelled:
        said.append(("cancelled" + (f" {step.cancelled}×" if step.cancelled > 1 else ""), "yellow"))
    if step.failed:
        said.append((f"failed: {step.error}", "bold red"))
    return Text(", ").join([Text(*one) if isinstance(one, tuple) else Text(one) for one in said])


def _seconds(seconds: float) -> str:
    """For a time that runs: no more digits than can be read."""
    return f"{seconds:.1f} s" if seconds < MINUTE_S else duration(int(seconds) * 1_000_000)


def took(seconds: float) -> str:
    """How long something took, as precisely as it is read."""
    return duration(round(seconds * 1_000_000)) if seconds >= SHORTEST_S else "under 1 ms"


# --- the rest ------------------------------------------------------------------------------------


def _bars(bars: Sequence[tuple[tuple[str, str], tuple[float, float]]]) -> Table:
    table = Table.grid(expand=True, padding=(0, 1))
    table.add_column(no_wrap=True, max_width=24, overflow="ellipsis")
    table.add_column(ratio=1)
    table.add_column(no_wrap=True, justify="right", min_width=8)
    labels = [label for (label, _), _ in bars]
    for (label, step), (done, total) in bars:
        named = f"{label} {step}" if labels.count(label) > 1 else label
        bar = ProgressBar(
            total=total, completed=done, complete_style="green", finished_style="green"
        )
        said = f"{done / total:.0%}" if total == 1 else f"{done:g} of {total:g}"
        table.add_row(Text(named, style="dim"), bar, said)
    return table


def _task(task: TaskState) -> Panel:
    counts, rest = task_words(task)
    return Panel(
        Text.assemble(counts, "\n", rest, no_wrap=True, overflow="ellipsis"),
        title=Text.assemble("task ", (harmless(task.type), "bold"), f" · {task.status}"),
        subtitle=Text(f"version {task.version}", style="dim"),
        title_align="left",
        subtitle_align="right",
        border_style="yellow",
        height=TASK_LINES,
    )


def task_words(task: TaskState) -> tuple[str, str]:
    """A task's state in two lines: its plain values, and the newest of its lists."""
    whole: object = task.state
    if not isinstance(whole, dict):
        return harmless(compact(whole)), ""
    state = cast("dict[str, Any]", whole)
    plain = [
        f"{name} {value if isinstance(value, str) else compact(value)}"
        for name, value in state.items()
        if not isinstance(value, (dict, list)) and value is not None
    ]
    lists = [
        f"{name} {' · '.join(map(str, reversed(cast('list[object]', value))))}"
        for name, value in state.items()
        if isinstance(value, list) and value
    ]
    return harmless("  ".join(plain)), harmless("  ".join(lists))


def _side_by_side(panels: Sequence[Panel], columns: int) -> Table:
    """Panels in rows; the columns are equally wide."""
    grid = Table.grid(expand=True, padding=(0, 1, 0, 0), pad_edge=False)
    columns = min(columns, len(panels))
    for _ in range(columns):
        grid.add_column(ratio=1)
    for at in range(0, len(panels), columns):
        grid.add_row(*panels[at : at + columns])
    return grid


def _text_rows(left: int) -> int:
    """How many rows of texts have room; one that is lower, if need be."""
    return max(left // (TEXT_LINES_MIN + BORDER_LINES), 1) if left > BORDER_LINES else 0


def _rows(count: int, columns: int) -> int:
    return -(-count // columns)


def _end_of(text: str, length: int) -> str:
    """The end of a long text, enough for `length` cells; cut at places that stay, so it doesn't jump."""
    cut = (len(text) // length - 1) * length
    return text[cut:] if cut > 0 else text


def _line(*parts: str | tuple[str, str]) -> Text:
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")
