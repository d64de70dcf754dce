"""Filters: which records a subscriber asked for. OR within one filter, AND across them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from .errors import InvalidInput
from .events import check_name
from .record import DROPPED, GAP, Draft

# Values in one filter: each is a set member, but they travel in a URL.
FILTER_VALUES_MAX: Final = 100

Names = str | Iterable[str] | None


class Filter(msgspec.Struct, frozen=True):
    """None lets everything pass. Gaps, drops and the run's terminal record pass every filter."""

    kinds: frozenset[str] | None = None
    topics: frozenset[str] | None = None
    steps: frozenset[str] | None = None
    correlation_ids: frozenset[str] | None = None

    @property
    def is_open(self) -> bool:
        """Whether everything passes."""
        return self == _OPEN

    def matches(self, draft: Draft) -> bool:
        """Whether the record was asked for by name."""
        return (
            (self.kinds is None or draft.kind in self.kinds)
            and (self.topics is None or draft.topic in self.topics)
            and (self.steps is None or draft.step in self.steps)
            and (self.correlation_ids is None or draft.correlation_id in self.correlation_ids)
        )

    def passes(self, draft: Draft) -> bool:
        """Whether a subscriber gets the record."""
        return draft.is_terminal or draft.kind in (GAP, DROPPED) or self.matches(draft)


_OPEN: Final = Filter()


def make_filter(
    *,
    kinds: Names = None,
    topics: Names = None,
    steps: Names = None,
    correlation_ids: Names = None,
) -> Filter:
    """A filter from what a caller gave: a string is one value.

    Raises:
        InvalidInput: a value that no record can have, or too many of them.
    """
    return Filter(
        kinds=_values(kinds, "kind"),
        topics=_values(topics, "topic"),
        steps=_values(steps, "step"),
        correlation_ids=_values(correlation_ids, "correlation_id"),
    )


def _values(names: Names, what: str) -> frozenset[str] | None:
    if names is None:
        return None
    values = frozenset((names,) if isinstance(names, str) else names)
    if len(values) > FILTER_VALUES_MAX:
        raise InvalidInput(
            f"a filter has at most {FILTER_VALUES_MAX} values, not {len(values)} {what}s"
        )
    for value in values:
        check_name(value, what)
    return values
