"""What a run is made of, and where it is: the engine's state, as data."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from .ticks import End, StepPlan, Work


class Plan(msgspec.Struct, frozen=True):
    """What a run is made of.

    `route` gives the names of the steps that accept an event, `kind_of` the name to record for it.
    `waits_outside`: events may come from outside, so a run in which nothing happens isn't stuck. After
    `grace` seconds the end no longer waits for what does not stop.
    """

    steps: Mapping[str, StepPlan] = {}
    route: Callable[[Any], tuple[str, ...]] = lambda _: ()
    kind_of: Callable[[Any], str | None] = lambda _: None
    timeout: float | None = None
    grace: float = 5.0
    waits_outside: bool = False


class RunState:
    """The state of one run. Read it freely; only the engine changes it."""

    __slots__ = (
        "abandoned",
        "body",
        "busy",
        "children",
        "count",
        "end",
        "phase",
        "plan",
        "prefix",
        "queues",
        "works",
    )

    def __init__(self, plan: Plan, prefix: str) -> None:
        self.plan = plan
        self.prefix = prefix
        self.phase: Literal["running", "ending", "ended"] = "running"
        self.works: dict[int, Work] = {}
        self.queues: dict[str, deque[Any]] = {}
        self.busy: dict[str, int] = {}
        self.count = 0
        self.body = False
        self.children: set[str] = set()
        self.end: End | None = None
        self.abandoned: list[str] = []

    @property
    def active_steps(self) -> list[str]:
        """The names of the steps that are at work (or between two attempts), each once."""
        return list(dict.fromkeys(work.step.name for work in self.works.values()))
