"""The names in NATS: streams of JetStream, and subjects in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from ..errors import InvalidURL

NAME_DEFAULT: Final = "RUNSTREAM"
NAME_LENGTH_MAX: Final = 32


@dataclass(frozen=True)
class Subjects:
    """`NAME` holds what is told below of runs, `NAME_RUNS` which runs there are."""

    name: str = NAME_DEFAULT

    def __post_init__(self) -> None:
        ok = self.name.isascii() and self.name.replace("_", "").replace("-", "").isalnum()
        if not ok or len(self.name) > NAME_LENGTH_MAX:
            raise InvalidURL(f"not a name for streams in NATS: {self.name!r}")

    @property
    def runs(self) -> str:
        return f"{self.name}_RUNS"

    def changes(self, root: str) -> str:
        """The changes of a stream, one after the other."""
        return f"{self.name}.changes.{_token(root)}"

    def parts(self, root: str) -> str:
        """Records that were too many for one message."""
        return f"{self.name}.parts.{_token(root)}"

    def born(self, run_id: str) -> str:
        """That there is a run, and in whose stream."""
        return f"{self.runs}.born.{_token(run_id)}"

    def born_any(self) -> str:
        """The subjects of all runs."""
        return f"{self.runs}.born.*"

    def kept(self, root: str) -> str:
        """That a stream has limits of its own."""
        return f"{self.runs}.kept.{_token(root)}"

    def cleaned(self) -> str:
        """When somebody last removed what is too old."""
        return f"{self.runs}.cleaned.all"

    def news(self, run_id: str) -> str:
        """Not stored: that a run has something new."""
        return f"{self.name}_NEWS.{_token(run_id)}"


def _token(run_id: str) -> str:
    # A dot separates the parts of a subject; `%` is in no run id.
    return quote(run_id, safe=":~_-").replace(".", "%2E")
