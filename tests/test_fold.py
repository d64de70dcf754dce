"""The shared vectors of the fold, and how much it holds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from json_states import canonical
from runstream import fold
from runstream.fold import TaskFold, TaskState
from runstream.record import Record
from vector_records import folds, record_of

CASES = folds("tasks")


def shown(task: TaskState) -> dict[str, Any]:
    members = msgspec.structs.asdict(task)
    del members["record"]
    return {name: value for name, value in members.items() if value is not None}


@pytest.mark.parametrize("case", [pytest.param(c, id=c["comment"]) for c in CASES])
def test_fold_vector(case: dict[str, Any]) -> None:
    tasks = TaskFold()
    given: list[tuple[TaskState, bytes]] = []
    for seq, vector in enumerate(case["records"], 1):
        changed = tasks.feed(record_of(vector, seq))
        assert canonical([*map(shown, changed)]) == canonical(vector["expected"]), f"record {seq}"
        # The record is always the task's own: with its topic, correlation id and step.
        assert all(task.record.topic == task.type for task in changed)
        assert all(task.record.seq == seq for task in changed if task.status != "lost")
        given += [(task, canonical(task.state)) for task in changed]
    # A reader may keep what it was given: later records change none of it.
    assert all(canonical(task.state) == before for task, before in given)


def test_every_vector_says_what_it_shows_once() -> None:
    comments = [case["comment"] for case in CASES]
    assert len(comments) == len(set(comments))


def started(task_id: str) -> Record:
    data = {"task_id": task_id, "version": 0, "state": {"n": 0}}
    return record_of({"kind": "task.started", "topic": "t", "data": data})


def next_delta(task_id: str, version: int) -> Record:
    patch = [{"op": "replace", "path": "/n", "value": version}]
    data = {"task_id": task_id, "version": version, "patch": patch}
    return record_of({"kind": "task.progress", "topic": "t", "data": data})


def test_of_too_many_open_tasks_the_one_that_rested_longest_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(fold, "OPEN_TASKS_MAX", 2)
    tasks = TaskFold()
    tasks.feed(started("busy"))
    tasks.feed(started("idle"))
    tasks.feed(next_delta("busy", 1))
    tasks.feed(started("new"))
    assert tasks.feed(next_delta("idle", 1)) == []
    (busy,) = tasks.feed(next_delta("busy", 2))
    assert busy["n"] == 2


def test_an_ended_task_is_not_held() -> None:
    tasks = TaskFold()
    tasks.feed(started("a"))
    data = {"task_id": "a", "version": 1, "state": {"n": 1}}
    tasks.feed(record_of({"kind": "task.completed", "topic": "t", "data": data}))
    assert tasks.feed(next_delta("a", 2)) == []


def test_a_task_state_has_its_records_correlation_id() -> None:
    data: dict[str, object] = {"task_id": "a", "version": 0, "state": {}}
    (task,) = TaskFold().feed(
        record_of({"kind": "task.started", "data": data, "correlation_id": "gen-42"})
    )
    assert task.correlation_id == "gen-42"
