"""Where a subscriber begins: one position, from what a caller or a request gave."""

from __future__ import annotations

import msgspec

from .errors import InvalidInput
from .record import Cursor


class Start(msgspec.Struct, frozen=True):
    """Where a subscription begins: at most one of these; by default at the first record."""

    from_seq: int | None = None
    after: Cursor | None = None
    last: int | None = None


def make_start(from_seq: int | None, after: str | None, last: int | None) -> Start:
    """Raises InvalidInput for a position that cannot be, or more than one."""
    if sum(value is not None for value in (from_seq, after, last)) > 1:
        raise InvalidInput("give one of from_seq, after and last")
    if from_seq is not None and from_seq < 0:
        raise InvalidInput(f"from_seq counts from 1 (0 means 1), not {from_seq}")
    if last is not None and last < 0:
        raise InvalidInput(f"last is a number of records, not {last}")
    return Start(from_seq, None if after is None else Cursor.parse(after), last)
