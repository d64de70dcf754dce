"""Folding: the text of a run, per `correlation_id`, without what failed attempts wrote."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec

from .record import Record

TOKEN: Final = "token"
# Texts that one fold holds: a run that makes more is not read as a whole by anybody; the oldest go.
TEXTS_MAX: Final = 10_000


class _Piece(msgspec.Struct):
    """Consecutive text of one attempt."""

    attempt: tuple[str | None, int | None]
    parts: list[str]
    discarded: bool = False


class TextFold:
    """The texts of a run; feed it the run's records in order.

    A record of kind `token` adds its `{"text": …}` to the text of its correlation_id ("" without one);
    `step.retrying` takes back what the failed attempt added, to whichever texts.
    """

    def __init__(self) -> None:
        self._pieces: dict[str, list[_Piece]] = {}

    def feed(self, record: Record) -> str | None:
        """The correlation_id whose text grew by the record; None if none did."""
        if record.kind == "step.retrying":
            self._discard((record.step_run_id, record.attempt))
            return None
        data: object = record.data if record.kind == TOKEN else None
        text = cast("dict[str, Any]", data).get("text") if isinstance(data, dict) else None
        if not isinstance(text, str):
            return None
        name = record.correlation_id or ""
        pieces = self._pieces.setdefault(name, [])
        attempt = (record.step_run_id, record.attempt)
        if pieces and pieces[-1].attempt == attempt:
            pieces[-1].parts.append(text)
        else:
            pieces.append(_Piece(attempt, [text]))
        if len(self._pieces) > TEXTS_MAX:
            del self._pieces[next(iter(self._pieces))]
        return name

    def names(self) -> list[str]:
        """The correlation_ids that have a text, in the order of their first record."""
        return list(self._pieces)

    def text(self, correlation_id: str = "") -> str:
        """The text that stands."""
        pieces = self._pieces.get(correlation_id, ())
        return "".join(part for piece in pieces if not piece.discarded for part in piece.parts)

    def discarded(self, correlation_id: str = "") -> list[str]:
        """What failed attempts wrote there, piece by piece."""
        pieces = self._pieces.get(correlation_id, ())
        return ["".join(piece.parts) for piece in pieces if piece.discarded]

    def _discard(self, attempt: tuple[str | None, int | None]) -> None:
        for pieces in self._pieces.values():
            for piece in pieces:
                if piece.attempt == attempt and attempt[0] is not None:
                    piece.discarded = True
