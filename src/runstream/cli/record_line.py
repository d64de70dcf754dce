"""A record as one line for people: number, local time, kind, where it comes from, what it says.

Columns only ever widen, so that what stands under one another belongs together. Losses and the end of
the run are marked at the left margin as well as by colour.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.color import ColorSystem
from rich.style import Style

from ..record import DROPPED, GAP, Record
from .terminal import harmless

# Wider names are not waited for: what a record says matters more.
KIND_WIDTH_MAX: Final = 16
PLACE_WIDTH_MAX: Final = 24
# Room for what a record says, however narrow the terminal is.
DATA_WIDTH_MIN: Final = 16

# One for each generation that is being written; the next one starts again.
_PALETTE: Final = ("cyan", "magenta", "green", "blue", "yellow")
_END_STYLES: Final = {
    "run.completed": "bold green",
    "run.failed": "bold red",
    "run.lost": "bold red",
    "run.cancelled": "bold yellow",
    "run.timed_out": "bold yellow",
}
_KIND_STYLES: Final = {"run": "bold", "step": "blue", "task": "magenta"}


class RecordLines:
    """Writes the records of one run as lines."""

    def __init__(self, run_id: str, *, colors: bool) -> None:
        self._run_id = run_id
        self._colors = colors
        self._seq_width = 4
        self._kind_width = len("run.completed")
        self._place_width = 0
        self._palette: dict[str, str] = {}

    def lines(self, records: Sequence[Record], width: int | None = None) -> list[str]:
        """A line for each record, of at most `width` cells; losses and the run's end are never cut."""
        kinds = [harmless(record.kind) for record in records]
        places = [harmless(self._place(record)) for record in records]
        self._kind_width = max(
            self._kind_width, min(max(map(len, kinds), default=0), KIND_WIDTH_MAX)
        )
        self._place_width = max(
            self._place_width, min(max(map(len, places), default=0), PLACE_WIDTH_MAX)
        )
        self._seq_width = max(self._seq_width, len(str(records[-1].seq)) if records else 0)
        return [
            self._line(record, kind, place, width)
            for record, kind, place in zip(records, kinds, places, strict=True)
        ]

    def _line(self, record: Record, kind: str, place: str, width: int | None) -> str:
        mark, loud = _mark(record, self._run_id)
        seq = "-" if record.is_gap else str(record.seq)
        head = f"{mark}{seq:>{self._seq_width}}  {_local_time(record)}  "
        kind = _padded(kind, self._kind_width) + "  "
        place = _padded(place, self._place_width) + "  " if self._place_width else ""
        data = describe(record)
        if loud is not None:
            return self._paint((head + kind + place + data).rstrip(), loud)
        if width is not None:
            left = width - cell_len(head + kind + place)
            data = cropped(data, max(left, DATA_WIDTH_MIN))
        color = self._color_of(record)
        prefix = kind.partition(".")[0]
        return (
            self._paint(head, "dim")
            + self._paint(kind, color or _KIND_STYLES.get(prefix, "default"))
            + self._paint(place, "dim")
            + self._paint(data, color or "default")
        ).rstrip()

    def _place(self, record: Record) -> str:
        parts = [record.run_id] if record.run_id != self._run_id else []
        if record.step is not None:
            again = f"({record.attempt})" if (record.attempt or 1) > 1 else ""
            parts.append(record.step + again)
        if record.topic is not None:
            parts.append(f"[{record.topic}]")
        if record.correlation_id is not None or record.index is not None:
            index = "" if record.index is None else f"#{record.index}"
            parts.append((record.correlation_id or "") + index)
        return " ".join(parts)

    def _color_of(self, record: Record) -> str | None:
        """Tokens that belong together have one colour, so that two stories can be read at once."""
        name = record.correlation_id
        if name is None:
            return None
        if len(self._palette) > 10 * len(_PALETTE):
            self._palette.clear()  # a run may have any number of them
        return self._palette.setdefault(name, _PALETTE[len(self._palette) % len(_PALETTE)])

    def _paint(self, text: str, style: str) -> str:
        if not self._colors or style == "default":
            return text
        return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)


def _mark(record: Record, run_id: str) -> tuple[str, str | None]:
    """The sign at the left margin, and the style of a line that must not be overlooked."""
    if record.kind in (GAP, DROPPED):
        return "!", "bold yellow"
    if record.is_terminal and record.run_id == run_id:
        return "✓" if record.kind == "run.completed" else "✗", _END_STYLES[record.kind]
    return " ", None


def _local_time(record: Record) -> str:
    seconds, us = divmod(record.draft.time, 1_000_000)
    try:
        return f"{time.strftime('%H:%M:%S', time.localtime(seconds))}.{us // 1000:03d}"
    except (OverflowError, ValueError, OSError):  # a producer's clock may say anything
        return "--:--:--.---"


def _padded(text: str, width: int) -> str:
    return text if cell_len(text) > width else set_cell_size(text, width)


def cropped(text: str, width: int) -> str:
    """The text in at most `width` cells; an ellipsis says that there is more."""
    # Measuring costs by length, and a record may have a mebibyte.
    start = text[: width + 1]
    if len(start) == len(text) and cell_len(text) <= width:
        return text
    return set_cell_size(start, width - 1).rstrip() + "…"


# --- what a record says --------------------------------------------------------------------------


def describe(record: Record) -> str:
    """The payload in short, on one line. Unknown forms of known kinds are shown as they are."""
    try:
        data = record.data
    except (msgspec.DecodeError, RecursionError):  # nested deeper than Python can hold
        return harmless(record.raw.decode(errors="replace"))
    return harmless(_described(record.kind, data))


def _described(kind: str, data: Any) -> str:
    said = ""
    match kind, data:
        case "stream.gap", {"reason": "trimmed", "from_seq": first, "to_seq": last}:
            said = f"records {first} to {last} have been trimmed and cannot be read any more"
        case "stream.gap", {"reason": "generation_changed", "next_seq": following}:
            said = f"the stream was lost and rebuilt; going on with its record {following}"
        case "stream.gap", {"reason": "removed"}:
            said = "the run was removed from the log; what followed cannot be read any more"
        case "stream.dropped", {"count": count, "reason": reason}:
            said = f"{count} records were dropped here by their producer ({reason})"
        case "run.failed" | "task.failed", (
            {"exception": {"type": name, "message": message}}
            | {"error": {"type": name, "message": message}}
        ):
            said = f"{name}: {message}"
        case "run.completed", {"result": None}:
            pass
        case (
            "task.started" | "task.snapshot" | "task.completed" | "task.cancelled",
            {"state": state},
        ):
            said = compact(state)
        case "task.progress", {"patch": [*operations]}:
            said = ", ".join(map(_operation, cast("list[object]", operations)))
        case _, {"text": str(text), **others} if not others:
            said = f'"{text}"'
        case _:
            said = compact(data)
    return said


def compact(data: Any) -> str:
    """Fields as `name=value`; anything else as JSON."""
    if not isinstance(data, dict):
        return _json(data)
    fields = cast("dict[str, object]", data)
    return " ".join(f"{name}={_json(value)}" for name, value in fields.items() if value is not None)


def _operation(operation: Any) -> str:
    match operation:
        case {"op": "append", "path": str(path), "value": value}:
            return f"{_field(path)}+={_json(value)}"
        case {"op": "add" | "replace", "path": str(path), "value": value}:
            return f"{_field(path)}={_json(value)}"
        case {"op": "remove", "path": str(path)}:
            return f"-{_field(path)}"
        case _:
            return _json(operation)


def _field(path: str) -> str:
    return path.removeprefix("/") or "state"


def _json(value: object) -> str:
    return msgspec.json.encode(value).decode()
