"""Folding: the state of tasks, from their records.

A fold starts at the first full state that it sees, and starts again at a hole in the versions; so it may
begin anywhere in a stream, behind a filter, or in a trimmed one.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from .patch import apply
from .record import Record

TaskStatus = Literal["running", "completed", "failed", "cancelled"]

# A task that never ended (its process died) must not stay for ever in a fold that runs for ever.
OPEN_TASKS_MAX = 10_000


class TaskState(msgspec.Struct, frozen=True):
    """A task as it was after `record`. `state` is read-only by contract: later states share its parts.

    `task_state["field"]` is short for `task_state.state["field"]`.
    """

    id: str
    type: str
    status: TaskStatus
    state: Any
    version: int
    record: Record
    parent_task_id: str | None = None
    error: dict[str, str] | None = None

    def __getitem__(self, key: str) -> Any:
        return self.state[key]

    @property
    def correlation_id(self) -> str | None:
        return self.record.correlation_id


class TaskFold:
    """The tasks of one run; feed it the run's records in order, all of them or those of some tasks."""

    def __init__(self) -> None:
        self._open: dict[str, TaskState] = {}

    def feed(self, record: Record) -> TaskState | None:
        """The task that the record changed; None if it is no task's, or its state is not known yet."""
        if not record.kind.startswith("task."):
            return None
        data = record.data
        task_id: str = data["task_id"]
        match record.kind:
            case "task.started":
                task = self._known(record, "running", data.get("parent_task_id"))
            case "task.snapshot":
                before = self._open.get(task_id)
                task = self._known(record, "running", before.parent_task_id if before else None)
            case "task.progress":
                before = self._open.get(task_id)
                if before is None:
                    return None
                if data["version"] != before.version + 1:
                    # A hole: wait for the next full state, which always comes.
                    if data["version"] > before.version:
                        del self._open[task_id]
                    return None
                task = msgspec.structs.replace(
                    before,
                    state=apply(before.state, data["patch"]),
                    version=data["version"],
                    record=record,
                )
            case "task.completed" | "task.failed" | "task.cancelled":
                before = self._open.pop(task_id, None)
                status: Any = record.kind.removeprefix("task.")
                return self._known(record, status, before.parent_task_id if before else None)
            case _:
                return None  # of a newer version; what it says is no state
        self._open[task_id] = task
        if len(self._open) > OPEN_TASKS_MAX:
            del self._open[next(iter(self._open))]
        return task

    @staticmethod
    def _known(record: Record, status: TaskStatus, parent_task_id: str | None) -> TaskState:
        data = record.data
        return TaskState(
            id=data["task_id"],
            type=record.topic or "",
            status=status,
            state=data["state"],
            version=data.get("version", 0),
            record=record,
            parent_task_id=parent_task_id,
            error=data.get("error"),
        )
