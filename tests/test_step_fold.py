"""The shared vectors of the fold of steps."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from runstream.step_fold import RunState, StepFold
from vector_records import folds, record_of


def shown(run: RunState) -> dict[str, Any]:
    members: dict[str, Any] = msgspec.to_builtins(run)
    for step in members["steps"]:
        for attempt in step["attempts"]:
            del attempt["started"], attempt["ended"]
    return members


@pytest.mark.parametrize("case", [pytest.param(c, id=c["comment"]) for c in folds("steps")])
def test_steps_vector(case: dict[str, Any]) -> None:
    fold = StepFold()
    for seq, vector in enumerate(case["records"], 1):
        fold.feed(record_of(vector, seq))
    assert [shown(run) for run in fold.runs] == case["expected"]


def test_feeding_says_which_run_changed() -> None:
    fold = StepFold()
    assert fold.feed(record_of({"kind": "token", "data": {"text": "x"}})) is None
    started = fold.feed(record_of({"kind": "run.started", "data": {"workflow": "w"}}))
    assert started is fold.runs[0]
