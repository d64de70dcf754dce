"""Batches: records on their way to the log, who waits for them, and what became of them."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future

import msgspec

from .log import Producer
from .record import Draft


class Batch(msgspec.Struct, frozen=True):
    """Records on their way, and who waits for them to be stored."""

    producer: Producer
    drafts: list[Draft]
    final: bool
    tickets: list[Future[bool]]


class Counts(msgspec.Struct):
    """What became of an outbox's records."""

    stored: int = 0
    dropped: int = 0
    failed: int = 0


def answer(tickets: Iterable[Future[bool]], *, stored: bool) -> None:
    """Tell those who wait, unless they have given up."""
    for ticket in tickets:
        if ticket.set_running_or_notify_cancel():
            ticket.set_result(stored)


def cut_after_end(drafts: list[Draft], root_run_id: str, over: set[str]) -> int:
    """Drop what other threads queued at the very moment of the end of its run, or of the root: the log
    would refuse the whole batch. How many that were. `over` are the runs that have ended, and grows.
    """
    kept: list[Draft] = []
    for draft in drafts:
        if draft.run_id in over or root_run_id in over:
            continue
        if draft.is_terminal:
            over.add(draft.run_id)
        kept.append(draft)
    late = len(drafts) - len(kept)
    drafts[:] = kept
    return late
