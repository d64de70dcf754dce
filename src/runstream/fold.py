"""Folding: the state of tasks, from their records.

A fold starts at the first full state that it sees, and starts again at a hole in the versions; so it may
begin anywhere in a stream, behind a filter, or in a trimmed one. What it cannot read (a record or a patch
of a newer version, say) is a hole, too: a state is right, or it is not shown.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Literal, cast

import msgspec

from .patch import InvalidPatch, apply
from .record import Record

TaskStatus = Literal["running", "completed", "failed", "cancelled", "lost"]

# More than a reader looks at. Those of a run that never ends must not pile up in whoever follows it.
OPEN_TASKS_MAX: Final = 10_000

# The kinds that carry a full state, and how the task stands then.
_STATUS: Final[dict[str, TaskStatus]] = {
    "task.started": "running",
    "task.snapshot": "running",
    "task.completed": "completed",
    "task.failed": "failed",
    "task.cancelled": "cancelled",
}

logger = logging.getLogger(__name__)


class TaskState(msgspec.Struct, frozen=True):
    """A task as it was after `record`, the newest of its own. `state` is read-only by contract: later
    states share its parts.

    A `lost` one was open when its run ended. `error` holds the `type` and `message` of the exception that
    ended a failed or cancelled task.
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
    """The tasks of a run; feed it the run's records in order, all of them or those of some tasks."""

    def __init__(self) -> None:
        # By run and id, those that changed last at the end.
        self._open: dict[tuple[str, str], TaskState] = {}

    def feed(self, record: Record) -> list[TaskState]:
        """The tasks that the record changed, as they are now: none if it is no task's, or its state is
        not known; several at most where it ends their run.
        """
        if record.is_terminal:
            return self._lose(record.run_id)
        task = self._feed_task(record) if record.kind.startswith("task.") else None
        return [] if task is None else [task]

    def _lose(self, run_id: str) -> list[TaskState]:
        """The tasks of a run that has ended, those that rested longest first."""
        keys = [key for key in self._open if key[0] == run_id]
        return [msgspec.structs.replace(self._open.pop(key), status="lost") for key in keys]

    def _feed_task(self, record: Record) -> TaskState | None:
        data: object = record.data
        members = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        task_id, version = members.get("task_id"), members.get("version")
        if not isinstance(task_id, str) or not isinstance(version, int):
            return None
        key = record.run_id, task_id
        before = self._open.pop(key, None)
        if record.kind in _STATUS and "state" in members:
            task = TaskState(
                id=task_id,
                type=record.topic or "",
                status=_STATUS[record.kind],
                state=members["state"],
                version=version,
                record=record,
                parent_task_id=members.get("parent_task_id"),
                error=members.get("error"),
            )
        elif before is None:
            return None
        elif version <= before.version:
            self._open[key] = before  # a repeat
            return None
        else:
            changed = _changed(before, record, version, members.get("patch"))
            if changed is None:
                return None
            task = changed
        if task.status == "running":
            self._open[key] = task
            if len(self._open) > OPEN_TASKS_MAX:
                del self._open[next(iter(self._open))]
        return task


def _changed(before: TaskState, record: Record, version: int, patch: Any) -> TaskState | None:
    """The task after a delta; None if it is not the next one, or cannot be applied."""
    if record.kind != "task.progress" or version != before.version + 1:
        return None
    try:
        state = apply(before.state, patch)
    except InvalidPatch as error:
        logger.warning("task %s, record %d cannot be applied: %s", before.id, record.seq, error)
        return None
    return msgspec.structs.replace(before, state=state, version=version, record=record)
