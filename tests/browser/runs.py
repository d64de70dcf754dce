"""Runs whose every record the test decides, published over plain HTTP."""

from __future__ import annotations

from itertools import count
from typing import Any

from server_process import ServerProcess


class ScriptedRun:
    """A run of one producer; `say` appends records, and returns when they are stored."""

    def __init__(self, server: ServerProcess, run_id: str, workflow: str = "poem") -> None:
        self.run_id = run_id
        self._server = server
        opened = server.call(
            "PUT", f"/v1/runs/{run_id}", {"workflow": workflow, "producer": "script"}
        )
        assert opened.status == 201, opened
        self._epoch = opened.json["epoch"]
        self._numbers = count(1)
        self._clock = count()
        self.say("run.started", {"workflow": workflow, "parent_run_id": None})

    def say(self, kind: str, data: object = None, *, final: bool = False, **more: Any) -> None:
        """One record."""
        self.say_all([{"kind": kind, "data": data, **more}], final=final)

    def say_all(self, events: list[dict[str, Any]], *, final: bool = False) -> None:
        """Several, in one batch."""
        for event in events:
            ms = next(self._clock) * 20
            event.setdefault("time", f"2026-04-15T10:{ms // 60000:02}:{ms / 1000 % 60:06.3f}Z")
        number = next(self._numbers)
        for _ in events[1:]:
            next(self._numbers)
        body = {
            "producer": {"id": "script", "epoch": self._epoch, "number": number},
            "events": events,
            "final": final,
        }
        answer = self._server.call("POST", f"/v1/runs/{self.run_id}/events", body)
        assert answer.status == 200, answer

    def end(self) -> None:
        """The run completes."""
        self.say("run.completed", {"result": 1}, final=True)


def step(number: int, name: str = "write", attempt: int = 1) -> dict[str, Any]:
    """The envelope's part that says which step and attempt a record is of."""
    return {"step": name, "step_run_id": f"s.{number}", "attempt": attempt}


def retried_poem(run: ScriptedRun) -> None:
    """A step that fails once, beside another; then a question."""
    run.say("step.started", {}, **step(1))
    run.say("step.started", {}, **step(2, "illustrate"))
    run.say("token", {"text": "Roses are blue"}, correlation_id="verse", **step(1))
    run.say(
        "step.retrying",
        {"attempt": 1, "error": {"type": "OSError", "message": "reset"}, "delay": 0},
        **step(1),
    )
    run.say("step.started", {}, **step(1, attempt=2))
    run.say("token", {"text": "Roses are red"}, correlation_id="verse", **step(1, attempt=2))
    run.say(
        "task.started",
        {"task_id": "t", "version": 0, "state": {"lines": 1}},
        topic="progress",
        **step(1, attempt=2),
    )
    run.say("step.completed", {"duration": 0.1}, **step(1, attempt=2))
    run.say("InputRequiredEvent", {"prefix": "Is it good? ", "verse": 7}, **step(2, "illustrate"))
