"""How much of a run is kept, and for how long: limits, each of them optional."""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from .errors import InvalidInput

T = TypeVar("T", int, float)

# Limits beyond these are mistakes: the largest whole number that every reader of JSON has, and a century.
AMOUNT_MAX: Final = 2**53 - 1
TIME_S_MAX: Final = 100 * 366 * 24 * 3600.0


class Retention(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Limits on a run's records. None: no limit of this kind; of several the strictest counts.

    `records` and `size_bytes` (of payloads) are the newest that stay, `age` is how many seconds a record
    stays by the time it carries, `after_end` how many seconds the whole run stays after its end. A reader
    of what is gone gets a gap.
    """

    records: int | None = None
    size_bytes: int | None = None
    age: float | None = None
    after_end: float | None = None

    @property
    def trims(self) -> bool:
        """Whether it drops records of a run that is kept."""
        return not (self.records is None and self.size_bytes is None and self.age is None)

    @property
    def is_empty(self) -> bool:
        return not self.trims and self.after_end is None


NO_LIMITS: Final = Retention()


def check_retention(retention: Retention) -> Retention:
    """Return `retention` if it can be kept.

    Raises:
        InvalidInput: a limit that is not above 0, or beyond all use.
    """
    for name in ("records", "size_bytes"):
        limit: int | None = getattr(retention, name)
        if limit is not None and not 1 <= limit <= AMOUNT_MAX:
            raise InvalidInput(f"retention keeps {name} from 1 to {AMOUNT_MAX}, not {limit}")
    for name in ("age", "after_end"):
        seconds: float | None = getattr(retention, name)
        if seconds is not None and not 0 < seconds <= TIME_S_MAX:
            raise InvalidInput(
                f"retention's {name} is in seconds above 0, a century at most, not {seconds}"
            )
    return retention


def strictest(one: Retention, other: Retention) -> Retention:
    """What both allow to be kept."""
    return Retention(
        _least(one.records, other.records),
        _least(one.size_bytes, other.size_bytes),
        _least(one.age, other.age),
        _least(one.after_end, other.after_end),
    )


def _least(one: T | None, other: T | None) -> T | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)
