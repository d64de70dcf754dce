"""An outbox with room for four records, and what is done with it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import msgspec

from runstream.batch import Batch
from runstream.errors import (
    LogUnavailable,
)
from runstream.outbox import Outbox
from runstream.record import Draft

PATIENCE_S = 30.0
DOWN = LogUnavailable("the disk is full")


def draft(number: int, kind: str = "token", run_id: str = "root") -> Draft:
    return Draft(0, run_id, kind, msgspec.Raw(b"%d" % number))


def end() -> Draft:
    return Draft(0, "root", "run.completed", msgspec.Raw(b"{}"))


class Kicks:
    """Counts how often the sender was called."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _: Outbox) -> None:
        self.count += 1


def outbox(**options: Any) -> Outbox:
    standard: dict[str, Any] = {
        "url": "memory:",
        "run_id": "root",
        "root_run_id": "root",
        "producer_id": "p1",
        "epoch": 3,
        "number": 10,
        "records_max": 4,
        "size_bytes_max": 1000,
        "overflow": "raise",
        "kick": Kicks(),
    }
    return Outbox(**(standard | options))


def filled(**options: Any) -> Outbox:
    box = outbox(**options)
    for number in range(4):
        box.put(draft(number))
    return box


def taken(box: Outbox, limit: int | None = None) -> Batch:
    batch = box.take(limit)
    assert batch is not None
    return batch


def numbers(batch: Batch) -> list[int]:
    return [int(bytes(one.data)) for one in batch.drafts]


def answer(ticket: Future[bool]) -> bool:
    return ticket.result(timeout=PATIENCE_S)
