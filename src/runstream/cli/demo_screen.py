"""What the demo shows: a fold of the run's records, drawn as a screen or told in plain lines.

Nothing here knows the run but from its records, as any subscriber gets them.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..fold import TaskFold, TaskState
from ..log import STATUS_BY_KIND, Status
from ..record import Record
from .ls import STATUS_STYLES
from .record_line import compact

COLORS: Final = ("cyan", "magenta")
# Lines of the screen beside the two texts: title, hints, progress, task, status, borders.
OTHER_LINES: Final = 12
TEXT_LINES_MAX: Final = 9
TEXT_LINES_MIN: Final = 3
# The rate is that of the last second, so that it follows what one sees.
RATE_WINDOW_S: Final = 1.0


class Seen:
    """What a subscriber knows of the run after each record."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.tokens: dict[str, int] = {}
        self.done, self.total = 0, 0
        self.task: TaskState | None = None
        self.status: Status = "running"
        self.seq = 0
        self._fold = TaskFold()
        self._arrivals: deque[float] = deque()

    def feed(self, record: Record, now_s: float) -> None:
        """Take in one record, that arrived at `now_s` of any clock."""
        self.seq = record.seq
        self._arrivals.append(now_s)
        self.task = self._fold.feed(record) or self.task
        self.status = STATUS_BY_KIND.get(record.kind, self.status)
        match record.kind, record.data:
            case "token", {"text": str(text)}:
                name = record.correlation_id or ""
                self.texts[name] = self.texts.get(name, "") + text
                self.tokens[name] = self.tokens.get(name, 0) + 1
            case "progress", {"done": int(done), "total": int(total)}:
                self.done, self.total = done, total
            case _:
                pass

    def rate(self, now_s: float) -> int:
        """Records in the last second."""
        while self._arrivals and self._arrivals[0] <= now_s - RATE_WINDOW_S:
            self._arrivals.popleft()
        return len(self._arrivals)


class Screen:
    """The whole screen, for `rich.live`. `footer` is its last line."""

    def __init__(self, seen: Seen, title: str, hint: str) -> None:
        self.footer = ""
        self._seen = seen
        self._title = title
        self._hint = hint

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = min(max(console.height - OTHER_LINES, TEXT_LINES_MIN), TEXT_LINES_MAX)
        yield Group(
            Text.assemble(("runstream demo", "bold"), ("  " + self._title, "dim")),
            Text(self._hint, style="dim"),
            self._texts(console, lines, (options.max_width - 1) // 2),
            self._progress(),
            self._task(),
            self._status(),
        )

    def _texts(self, console: Console, lines: int, width: int) -> Table:
        row = Table.grid(expand=True, padding=(0, 1, 0, 0), pad_edge=False)
        names = sorted(self._seen.texts) or ["gen-1", "gen-2"]
        panels: list[Panel] = []
        for number, name in enumerate(names):
            row.add_column(ratio=1)
            color = COLORS[number % len(COLORS)]
            writing = self._seen.status == "running"
            text = Text(self._seen.texts.get(name, "").rstrip())
            text.append(" ▍" if writing else "", style=color)
            wrapped = text.wrap(console, max(width - 4, 1))
            shown = Text("\n").join(wrapped[-lines:])
            count = f"{self._seen.tokens.get(name, 0)} tokens"
            panels.append(
                Panel(
                    shown,
                    title=Text(name, style=f"bold {color}"),
                    subtitle=Text(count, style="dim"),
                    title_align="left",
                    subtitle_align="right",
                    border_style=color,
                    height=lines + 2,
                )
            )
        row.add_row(*panels)
        return row

    def _progress(self) -> Table:
        row = Table.grid(expand=True, padding=(0, 1))
        row.add_column(no_wrap=True)
        row.add_column(ratio=1)
        row.add_column(no_wrap=True, justify="right", min_width=8)
        seen = self._seen
        bar = ProgressBar(
            total=max(seen.total, 1),
            completed=seen.done,
            complete_style="green",
            finished_style="green",
        )
        row.add_row(Text("progress", style="dim"), bar, f"{seen.done} of {seen.total}")
        return row

    def _task(self) -> Panel:
        task = self._seen.task
        if task is None:
            return Panel(Text("\n"), title="task", title_align="left", border_style="dim", height=4)
        counts, notes = task_words(task)
        return Panel(
            Text.assemble(
                counts, "\n", ("notes ", "dim"), notes, no_wrap=True, overflow="ellipsis"
            ),
            title=Text.assemble("task ", (task.type, "bold"), f" · {task.status}"),
            subtitle=Text(f"version {task.version}", style="dim"),
            title_align="left",
            subtitle_align="right",
            border_style="yellow",
            height=4,
        )

    def _status(self) -> Text:
        seen = self._seen
        return Text.assemble(
            (seen.status, f"bold {STATUS_STYLES[seen.status]}"),
            f" · record {seen.seq}",
            (f" · {self.footer}" if self.footer else "", "dim"),
            no_wrap=True,
            overflow="ellipsis",
        )


class PlainLines:
    """The same for a pipe or a file: a line for each sentence, for progress and for the task."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._sentences: dict[str, str] = {}
        self._quarter = 0

    def line(self, record: Record) -> str | None:
        """The line that the record completes, if any. Feed it to `seen` first."""
        match record.kind, record.data:
            case "token", {"text": str(text)}:
                name = record.correlation_id or ""
                sentence = self._sentences.get(name, "") + text
                ends = sentence.rstrip().endswith((".", "!", "?"))
                self._sentences[name] = "" if ends else sentence
                return self._at(record, name, sentence.rstrip()) if ends else None
            case "progress", _:
                quarter = 4 * self._seen.done // max(self._seen.total, 1)
                if quarter == self._quarter:
                    return None
                self._quarter = quarter
                return self._at(record, "progress", f"{self._seen.done} of {self._seen.total}")
            case (("task.started" | "task.completed" | "task.failed" | "task.cancelled"), _):
                task = self._seen.task
                counts, notes = ("", "") if task is None else task_words(task)
                said = f"{counts}, notes: {notes}" if notes else counts
                return self._at(record, record.kind, said)
            case _:
                begins_or_ends = record.kind in STATUS_BY_KIND
                return (
                    self._at(record, record.kind, compact(record.data)) if begins_or_ends else None
                )

    @staticmethod
    def _at(record: Record, name: str, text: str) -> str:
        return f"{record.seq:>5}  {name:<14}  {text}".rstrip()


def task_words(task: TaskState) -> tuple[str, str]:
    """The counts in a task's state, and its notes."""
    state: dict[str, Any] = task.state
    counts = "  ".join(f"{name} {value}" for name, value in state.items() if isinstance(value, int))
    return counts, " · ".join(state.get("notes", []))
