"""A run in which nothing is sent by itself: a test takes the records when it wants them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import msgspec

from runstream.context import Scope, current_scope
from runstream.fold import TaskFold, TaskState
from runstream.outbox import Outbox
from runstream.record import Draft, Origin, Record

ORIGIN = Origin("generation", "w", None, "r")


def make_outbox(records_max: int = 1000, size_bytes_max: int = 1024 * 1024) -> Outbox:
    return Outbox(
        url="memory:",
        run_id="r",
        root_run_id="r",
        producer_id="p",
        epoch=0,
        number=0,
        records_max=records_max,
        size_bytes_max=size_bytes_max,
        overflow="drop_oldest",
        kick=lambda _: None,
    )


@contextmanager
def inside(outbox: Outbox) -> Generator[None]:
    """Be in a run whose records nobody takes yet."""
    token = current_scope.set(Scope(outbox, "r", "step", "step-run", 2))
    try:
        yield
    finally:
        current_scope.reset(token)


def taken(outbox: Outbox) -> list[Draft]:
    batch = outbox.take()
    if batch is None:
        return []
    outbox.stored(batch)
    return batch.drafts


def data_of(draft: Draft) -> Any:
    return msgspec.json.decode(draft.data)


def folded(drafts: list[Draft]) -> list[TaskState]:
    fold = TaskFold()
    return [
        task
        for seq, draft in enumerate(drafts, 1)
        for task in fold.feed(Record(seq, draft, ORIGIN))
    ]
