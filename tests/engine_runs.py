"""What the tests of the engine share: a run without clocks or tasks, and its commands in short."""

from __future__ import annotations

from typing import Any

from runstream.run_state import Plan, RunState
from runstream.ticks import (
    ClearTimer,
    Command,
    End,
    SetTimer,
    Start,
    StepPlan,
    Stop,
    StopBody,
    StopChild,
    Write,
)

BOOM = {"type": "ValueError", "message": "boom"}


def state_of(*steps: StepPlan, **options: Any) -> RunState:
    """A run of steps that each accept the events which begin with their name."""
    plans = {step.name: step for step in steps}

    def route(event: Any) -> tuple[str, ...]:
        return tuple(name for name in plans if str(event).startswith(name))

    return RunState(Plan(steps=plans, route=route, kind_of=lambda event: event, **options), "r.")


def shown(commands: list[Command]) -> list[str]:
    """Commands in short: `step.started a#1`, `Start a#1`, `SetTimer retry 2.0`."""
    lines: list[str] = []
    for one in commands:
        match one:
            case Write():
                lines.append(f"{one.kind} {one.work.step.name}#{one.attempt}")
            case Start():
                lines.append(f"Start {one.work.step.name}#{one.work.attempt}")
            case Stop():
                lines.append(f"Stop {one.work.step.name}#{one.attempt}")
            case SetTimer():
                lines.append(f"SetTimer {one.timer.kind} {one.at:g}")
            case ClearTimer():
                lines.append(f"ClearTimer {one.timer.kind}")
            case End():
                lines.append(one.kind)
            case StopChild():
                lines.append(f"StopChild {one.run_id}")
            case StopBody():
                lines.append("StopBody")
    return lines
