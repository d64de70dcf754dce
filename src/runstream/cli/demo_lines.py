"""The demo in plain lines: one for each sentence, each quarter of the progress, each step and log book."""

from __future__ import annotations

from ..fold import TaskFold
from ..record import Record
from .record_line import compact
from .screen import task_words, took


class PlainLines:
    """What a pipe or a file gets of the demo's records."""

    def __init__(self) -> None:
        self._fold = TaskFold()
        self._sentences: dict[str, str] = {}
        self._quarter = 0

    def line(self, record: Record) -> str | None:  # noqa: PLR0911 - one for each kind of line
        """The line that the record completes, if any."""
        tasks = self._fold.feed(record)
        match record.kind, record.data:
            case "token", {"text": str(text)}:
                name = record.correlation_id or ""
                sentence = self._sentences.get(name, "") + text
                ends = sentence.rstrip().endswith((".", "!", "?"))
                self._sentences[name] = "" if ends else sentence
                return _at(record, name, sentence.rstrip()) if ends else None
            case "progress", {"done": int(done), "total": int(total)}:
                quarter = 4 * done // max(total, 1)
                if quarter == self._quarter:
                    return None
                self._quarter = quarter
                return _at(record, "progress", f"{done} of {total}")
            case ("task.progress", _):
                return None
            case _ if tasks and not record.is_terminal:
                return _at(record, record.kind, ", ".join(filter(None, task_words(tasks[0]))))
            case "step.completed", {"duration": float(took_s)}:
                return _at(record, record.kind, f"{record.step} in {took(took_s)}")
            case _ if record.kind.startswith("step."):
                return _at(record, record.kind, record.step or "")
            case _:
                return _at(record, record.kind, compact(record.data))


def _at(record: Record, name: str, text: str) -> str:
    return f"{record.seq:>5}  {name:<14}  {text}".rstrip()
