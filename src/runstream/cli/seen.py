"""What a terminal shows of a run: a fold of its records, as any subscriber gets them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard, cast

from ..events import InputRequiredEvent, event_class
from ..fold import TaskFold, TaskState
from ..log import STATUS_BY_KIND, Status
from ..record import DROPPED, Record
from .record_line import describe
from .terminal import harmless

# The rate is that of the last second, so that it follows what one sees.
RATE_WINDOW_S: Final = 1.0
# Of a text that goes on and on, at least the newest half of this is kept: a screen shows less.
TEXT_LENGTH_MAX: Final = 32_768
# A run may have any number of texts, bars and tasks; a screen shows the last ones.
ITEMS_MAX: Final = 100
SAID_MAX: Final = 5

# People publish tokens and progress in few forms; others are shown as what they are.
_TEXT_FIELDS: Final = ("text", "token", "delta", "content")
_TOTAL_FIELDS: Final = ("total", "of")
_TOKEN_KINDS: Final = ("token", "delta", "chunk")


class Writing:
    """A text that is being written token by token."""

    def __init__(self) -> None:
        self.tokens = 0
        # When the newest token came, by the clock of who feeds.
        self.at_s = 0.0
        self._parts: list[str] = []
        self._length = 0

    def add(self, text: str, now_s: float) -> None:
        self.tokens += 1
        self.at_s = now_s
        self._parts.append(text)
        self._length += len(text)
        if self._length > TEXT_LENGTH_MAX:
            self._parts = [self.text[-TEXT_LENGTH_MAX // 2 :]]
            self._length = len(self._parts[0])

    @property
    def text(self) -> str:
        """The text (of a very long one the end), safe for a terminal, with its line breaks."""
        if len(self._parts) > 1:
            self._parts = ["".join(self._parts)]
        return "\n".join(map(harmless, "".join(self._parts).splitlines()))


@dataclass(slots=True)
class StepSeen:
    """All work of one step so far."""

    name: str
    # When the work under way began, by the clock of who feeds.
    running: dict[str, float] = field(default_factory=dict[str, float])
    # Why the work that waits for its next attempt has failed, and until when it waits.
    retrying: dict[str, tuple[str, float]] = field(default_factory=dict[str, tuple[str, float]])
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    # Seconds that the last piece of work took, and why the last one that failed did.
    took_s: float | None = None
    error: str = ""


class Seen:
    """What a subscriber knows of the run after each record."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.workflow = ""
        self.status: Status = "running"
        self.seq = 0
        self.lost = 0
        self.steps: dict[tuple[str, str], StepSeen] = {}
        self.writings: dict[str, Writing] = {}
        self.bars: dict[tuple[str, str], tuple[float, float]] = {}
        self.tasks: dict[tuple[str, str], TaskState] = {}
        self.said: deque[tuple[str, str]] = deque(maxlen=SAID_MAX)
        self._children: dict[str, str] = {}
        self._fold = TaskFold()
        self._arrivals: deque[float] = deque()

    def feed(self, record: Record, now_s: float) -> None:
        """Take in one record, that arrived at `now_s` of any clock."""
        self.seq = record.seq or self.seq
        self._arrivals.append(now_s)
        kind, data = record.kind, record.data
        fields: dict[str, Any] = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        prefix = kind.partition(".")[0]
        for task in self._fold.feed(record):
            _put(self.tasks, (task.record.run_id, task.id), task)
        if prefix == "step":
            self._feed_step(record, fields, now_s)
        elif prefix == "run":
            self._feed_run(record, fields)
        elif kind == DROPPED or record.is_gap:
            self.lost += int(fields.get("count", 1))
        elif prefix != "task":
            self._feed_own(record, fields, now_s)

    def rate(self, now_s: float) -> int:
        """Records in the last second."""
        while self._arrivals and self._arrivals[0] <= now_s - RATE_WINDOW_S:
            self._arrivals.popleft()
        return len(self._arrivals)

    def _feed_run(self, record: Record, fields: Mapping[str, Any]) -> None:
        if record.run_id != self.run_id:
            if record.kind == "run.started":
                self._children[record.run_id] = str(fields.get("workflow", record.run_id))
            return
        self.status = STATUS_BY_KIND.get(record.kind, self.status)
        if record.kind == "run.started":
            self.workflow = harmless(str(fields.get("workflow", "")))

    def _feed_step(self, record: Record, fields: Mapping[str, Any], now_s: float) -> None:
        name = record.step or "?"
        if record.run_id != self.run_id:
            name = f"{self._children.get(record.run_id, record.run_id)}: {name}"
        key = record.run_id, record.step or ""
        step = self.steps.get(key)
        if step is None:
            step = self.steps[key] = StepSeen(harmless(name))
        work = record.step_run_id or ""
        begun_s = step.running.pop(work, None)
        step.retrying.pop(work, None)
        match record.kind:
            case "step.started":
                step.running[work] = now_s
            case "step.completed":
                step.done += 1
                step.took_s = fields.get("duration")
            case "step.retrying":
                attempt = fields.get("attempt", record.attempt)
                said = f"attempt {attempt} failed: {_error(fields)}"
                step.retrying[work] = said, now_s + float(fields.get("delay", 0.0))
            case "step.failed":
                step.failed += 1
                attempts = fields.get("attempts", 1)
                step.error = _error(fields) + (f" ({attempts} attempts)" if attempts > 1 else "")
            case "step.cancelled":
                step.cancelled += 1
            case _:
                if begun_s is not None:  # a kind that a newer version writes
                    step.running[work] = begun_s

    def _feed_own(self, record: Record, fields: Mapping[str, Any], now_s: float) -> None:
        """What the workflow's own code has published."""
        kind = record.kind.casefold()
        text = next((fields[n] for n in _TEXT_FIELDS if isinstance(fields.get(n), str)), None)
        if text is not None and any(word in kind for word in _TOKEN_KINDS):
            name = harmless(record.correlation_id or record.step or record.kind)
            writing = self.writings.get(name)
            if writing is None or record.index == 0:  # an attempt begins from the start
                writing = Writing()
            writing.add(text, now_s)
            _put(self.writings, name, writing)
            return
        bar = _bar(fields) if "progress" in kind else None
        if bar is not None:
            label = record.topic or record.correlation_id or "progress"
            _put_last(self.bars, (harmless(label), harmless(record.step or "")), bar)
        elif not issubclass(event_class(record.kind), InputRequiredEvent):
            self.said.append((harmless(record.kind), describe(record)))


def _bar(fields: Mapping[str, Any]) -> tuple[float, float] | None:
    """How far, and of how much."""
    total = next((fields[name] for name in _TOTAL_FIELDS if name in fields), None)
    done = fields.get("done")
    if _is_number(done) and _is_number(total) and total > 0:
        return done, total
    for name, whole in (("progress", 1.0), ("fraction", 1.0), ("percent", 100.0)):
        value = fields.get(name)
        if _is_number(value) and 0 <= value <= whole:
            return value / whole, 1.0
    return None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _error(fields: Mapping[str, Any]) -> str:
    match fields.get("error"):
        case {"type": name, "message": message}:
            return harmless(f"{name}: {message}" if message else f"{name}")
        case _:
            return "?"


def _put(items: dict[Any, Any], key: Any, value: Any) -> None:
    items[key] = value
    if len(items) > ITEMS_MAX:
        del items[next(iter(items))]


def _put_last(items: dict[Any, Any], key: Any, value: Any) -> None:
    items.pop(key, None)
    _put(items, key, value)
