"""The check of a workflow's graph: what cannot work says why before anything runs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import BaseModel

from runstream import (
    Context,
    InvalidInput,
    StartEvent,
    StopEvent,
    Workflow,
    step,
)
from workflow_cases import Counted, First, Second
from workflow_runs import own_log

__all__ = ["own_log"]


class Named(BaseModel):
    name: str = ""


def without_start() -> Workflow:
    @step
    async def lost(ev: First) -> StopEvent:
        return StopEvent()

    return Workflow("w", [lost])


def without_stop() -> Workflow:
    @step
    async def begin(ev: StartEvent) -> First:
        return First(text="")

    @step
    async def go_on(ev: First) -> None:
        return None

    return Workflow("w", [begin, go_on])


def without_consumer() -> Workflow:
    @step
    async def begin(ev: StartEvent) -> First | StopEvent:
        return StopEvent()

    return Workflow("w", [begin])


def without_producer() -> Workflow:
    @step
    async def begin(ev: StartEvent) -> StopEvent:
        return StopEvent()

    @step
    async def idle(ev: Second) -> StopEvent:
        return StopEvent()

    return Workflow("w", [begin, idle])


def with_a_text_result() -> Workflow:
    @step
    async def begin(ev: StartEvent) -> str:
        return ""

    return Workflow("w", [begin])


def with_an_unknown_event() -> Workflow:
    async def begin(ev: StartEvent) -> StopEvent:
        return StopEvent()

    begin.__annotations__["return"] = "Nowhere"
    return Workflow("w", [step(begin)])


def with_a_needless_parameter() -> Workflow:
    @step
    async def begin(ev: StartEvent, more: int) -> StopEvent:
        return StopEvent()

    return Workflow("w", [begin])


def with_a_plain_function() -> Workflow:
    @step
    def work(item: int) -> int:
        return item

    return Workflow("w", [work])


def with_two_of_a_name() -> Workflow:
    @step(name="x")
    async def one(ev: StartEvent) -> StopEvent:
        return StopEvent()

    @step(name="x")
    async def two(ev: StartEvent) -> StopEvent:
        return StopEvent()

    return Workflow("w", [one, two])


def with_two_states() -> Workflow:
    @step
    async def one(ctx: Context[dict[str, int]], ev: StartEvent) -> First:
        return First(text="")

    @step
    async def two(ctx: Context[Counted], ev: First) -> StopEvent:
        return StopEvent()

    @step
    async def three(ctx: Context[Named], ev: First) -> StopEvent:
        return StopEvent()

    return Workflow("w", [one, two, three])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (without_start, "no step of 'w' accepts a StartEvent"),
        (without_stop, "no step of 'w' returns a StopEvent"),
        (without_consumer, "'begin' of 'w' returns First, which no step accepts"),
        (without_producer, "'idle' of 'w' accepts Second, which no step returns"),
        (with_a_text_result, "'begin' of 'w': it returns str, which is no event"),
        (with_an_unknown_event, "'begin' of 'w': it returns a Nowhere, which cannot be found"),
        (with_a_needless_parameter, "its parameter 'more' is neither a Context nor an Event"),
        (with_a_plain_function, "'work' of 'w'.*no parameter that is annotated with an event"),
        (with_two_of_a_name, "'w' has two steps named 'x'"),
        (with_two_states, "share one state, but name Counted and Named"),
        (lambda: Workflow("w"), "'w' has no steps"),
        (lambda: Workflow("w", [print]), "declared with @step"),  # type: ignore[list-item] # pyright: ignore[reportArgumentType] - the point
        (lambda: Workflow("w", timeout=0), "a number of seconds above 0"),
    ],
)
async def test_a_workflow_that_cannot_work_says_why_before_it_runs(
    make: Callable[[], Workflow], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        make().run()


async def test_the_check_can_be_left_out() -> None:
    @step
    async def begin(ev: StartEvent) -> First | StopEvent:
        return StopEvent(result="fine")

    assert await Workflow("w", [begin], check=False).run() == "fine"
