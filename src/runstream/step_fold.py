"""Folding: the runs of a stream with their steps and attempts, as a timeline shows them."""

from __future__ import annotations

from typing import Any, Final, Literal, cast

import msgspec

from .log import STATUS_BY_KIND, Status
from .record import Record

StepStatus = Literal["running", "retrying", "completed", "failed", "cancelled", "lost"]

# How an attempt stands after a record; its step stands the same, but for one that is tried again.
_STATUS: Final[dict[str, StepStatus]] = {
    "step.started": "running",
    "step.retrying": "failed",
    "step.completed": "completed",
    "step.failed": "failed",
    "step.cancelled": "cancelled",
}


class AttemptState(msgspec.Struct):
    """One attempt. Times are the producer's clock; `error` holds `type` and `message`."""

    attempt: int
    status: StepStatus
    first_seq: int
    started: str
    last_seq: int | None = None
    ended: str | None = None
    error: dict[str, str] | None = None


class StepState(msgspec.Struct):
    """One step run: the same through its attempts."""

    step_run_id: str
    step: str
    status: StepStatus
    attempts: list[AttemptState]


class RunState(msgspec.Struct):
    """A run of the stream, its steps in the order in which they began."""

    run_id: str
    workflow: str = ""
    parent_run_id: str | None = None
    status: Status = "running"
    steps: list[StepState] = []


class StepFold:
    """The runs of a stream; feed it the records in order. `runs` is in the order of their first record."""

    def __init__(self) -> None:
        self._runs: dict[str, RunState] = {}
        self._steps: dict[tuple[str, str], StepState] = {}

    @property
    def runs(self) -> list[RunState]:
        return list(self._runs.values())

    def feed(self, record: Record) -> RunState | None:
        """The run that the record changed; None if it says nothing of runs and steps."""
        data: object = record.data if record.kind.startswith(("run.", "step.")) else None
        members = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        if record.kind in STATUS_BY_KIND:
            return self._feed_run(record, members)
        status = _STATUS.get(record.kind)
        if status is None or record.step_run_id is None or record.attempt is None:
            return None
        return self._feed_step(record, status, members)

    def _run(self, run_id: str) -> RunState:
        return self._runs.setdefault(run_id, RunState(run_id))

    def _feed_run(self, record: Record, members: dict[str, Any]) -> RunState:
        run = self._run(record.run_id)
        run.status = STATUS_BY_KIND[record.kind]
        if record.kind == "run.started":
            run.workflow = members.get("workflow") or ""
            run.parent_run_id = members.get("parent_run_id")
        if run.status == "lost":
            for step in run.steps:
                if step.status in ("running", "retrying"):
                    step.status = "lost"
                    if step.attempts[-1].last_seq is None:
                        _end(step.attempts[-1], record, "lost", None)
        return run

    def _feed_step(self, record: Record, status: StepStatus, members: dict[str, Any]) -> RunState:
        run = self._run(record.run_id)
        step_run_id, number = cast(str, record.step_run_id), cast(int, record.attempt)
        step = self._steps.get((run.run_id, step_run_id))
        if step is None:
            step = StepState(step_run_id, record.step or "", status, [])
            self._steps[run.run_id, step_run_id] = step
            run.steps.append(step)
        step.status = "retrying" if record.kind == "step.retrying" else status
        attempt = next((known for known in step.attempts if known.attempt == number), None)
        if attempt is None:
            attempt = AttemptState(number, "running", record.seq, record.time.isoformat())
            step.attempts.append(attempt)
        if status != "running":
            _end(attempt, record, status, members.get("error"))
        return run


def _end(
    attempt: AttemptState, record: Record, status: StepStatus, error: dict[str, str] | None
) -> None:
    attempt.status, attempt.error = status, error
    attempt.last_seq, attempt.ended = record.seq, record.time.isoformat()
