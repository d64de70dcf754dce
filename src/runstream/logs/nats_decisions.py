"""What callers want of a stream in NATS: decided together, as one change of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import msgspec

from ..errors import RunstreamError
from .nats_state import Pending

# Records of one message: what more there is goes into the next one.
RECORDS_MAX: Final = 1000


class Decision(msgspec.Struct):
    """What a caller wants of the stream, and who waits for the outcome."""

    decide: Callable[[Pending], Any]
    done: asyncio.Future[Any]


def awaited(batch: list[Decision]) -> list[Decision]:
    """Without those of callers who have given up: they may have been told that nothing was stored."""
    return [one for one in batch if not one.done.done()]


def decide_all(
    pending: Pending, batch: list[Decision]
) -> tuple[list[tuple[Decision, Any]], list[Decision]]:
    """The outcome of each decision that goes into this change, and the decisions for the next one."""
    outcomes: list[tuple[Decision, Any]] = []
    batch = awaited(batch)
    for number, decision in enumerate(batch):
        if outcomes and len(pending.drafts) >= RECORDS_MAX:
            return outcomes, batch[number:]
        try:
            outcomes.append((decision, decision.decide(pending)))
        except RunstreamError as error:
            outcomes.append((decision, error))
    return outcomes, []


def answer(outcomes: list[tuple[Decision, Any]]) -> None:
    """Tell the callers: what came of it, or the error."""
    for decision, outcome in outcomes:
        if decision.done.done():
            continue
        if isinstance(outcome, RunstreamError):
            decision.done.set_exception(outcome)
        else:
            decision.done.set_result(outcome)
