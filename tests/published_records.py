"""What the tests of publishing share: being in a step, and what a reader finds of what was published."""

from __future__ import annotations

from runstream import (
    Record,
    connect,
)
from runstream.context import Scope, current_scope


def published(url: str, run_id: str) -> list[Record]:
    """The user's records of a run that has ended."""
    with connect(url) as streams:
        records = list(streams.subscribe(run_id, follow=False))
    assert records[-1].is_terminal
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    return [record for record in records if not record.kind.startswith("run.")]


def numbers(url: str, run_id: str) -> list[int]:
    return [record.data["n"] for record in published(url, run_id)]


def in_step(step: str, attempt: int = 1) -> None:
    """Let the calling context be inside a step, as an engine does."""
    scope = current_scope.get()
    assert scope is not None
    current_scope.set(Scope(scope.outlet, scope.run_id, step, f"{step}-run", attempt))
