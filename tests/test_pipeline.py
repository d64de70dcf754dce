"""Pipelines: functions that call steps."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from pipelines import add, double, dynamic, fail, in_plain_code, plain, the_only_run
from runstream import (
    InvalidInput,
    connect,
    pipeline,
    publish,
    start_run,
    step,
)
from runstream.pipeline import Pipeline
from runstream.step_future import StepFuture
from workflow_runs import kinds_of, own_log, records_of, until

__all__ = ["own_log"]


async def test_calling_a_plain_pipeline_runs_it_and_gives_its_result() -> None:
    assert await in_plain_code(plain, 1) == 4
    records = await the_only_run()
    assert [(record.kind, record.step) for record in records] == [
        ("run.started", None),
        ("event", None),
        ("step.started", "add"),
        ("event", "add"),
        ("step.completed", "add"),
        ("step.started", "add"),
        ("event", "add"),
        ("step.completed", "add"),
        ("run.completed", None),
    ]
    assert records[0].workflow == "plain"
    assert records[0].data["input"] == {"n": 1}
    assert records[1].step_run_id is None
    assert records[4].data["result"] == 2
    assert records[-1].data == {"result": 4}


async def test_an_async_pipeline_awaits_its_steps_side_by_side() -> None:
    assert await dynamic(3) == [0, 2, 4]
    records = await the_only_run()
    assert len({record.step_run_id for record in records if record.step}) == 3


@pytest.mark.parametrize("one", [plain, dynamic], ids=["plain", "async"])
async def test_run_starts_it_and_returns_its_handler(one: Pipeline[[int], Any]) -> None:
    handler = one.run(2, run_id="chosen")
    assert handler.run_id == "chosen"
    assert await handler == (5 if one is plain else [0, 2])
    assert handler.is_done()
    assert (await kinds_of(handler))[-1] == "run.completed"


async def test_run_works_where_no_event_loop_runs() -> None:
    def plain_code() -> list[Any]:
        handlers = [plain.run(1), dynamic.run(2)]
        return [asyncio.run(handler.result()) for handler in handlers]

    assert await in_plain_code(plain_code) == [4, [0, 2]]


async def test_submitted_steps_run_beside_the_body() -> None:
    together = threading.Barrier(3, timeout=30)

    @step
    def meet(n: int) -> int:
        together.wait()
        return n

    @pipeline
    def meeting() -> int:
        futures = [meet.submit(n) for n in range(2)]
        together.wait()
        later = double.submit(10)
        return sum(future.result() for future in futures) + later.result()

    assert await in_plain_code(meeting) == 21

    @pipeline
    async def async_meeting() -> list[int]:
        futures = [meet.submit(n) for n in range(3)]
        return [await future for future in futures] + [await double.submit(4)]

    assert await async_meeting() == [0, 1, 2, 8]


async def test_a_pipeline_waits_also_for_what_the_steps_submit_that_it_waits_for() -> None:
    submitted: list[StepFuture[None]] = []
    finished: list[str] = []

    @step
    async def inner() -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        finished.append("inner")

    @step
    async def outer() -> None:
        while not submitted[0].asked:  # until the body has ended, and waits for this
            await asyncio.sleep(0)
        inner.submit()

    @pipeline
    async def body() -> None:
        submitted.append(outer.submit())

    await body()
    assert finished == ["inner"]


async def test_a_pipeline_waits_for_the_steps_that_it_submitted() -> None:
    finished: list[int] = []

    @step
    def slow(n: int) -> None:
        time.sleep(0.02)  # a pipeline that does not wait is over by then
        finished.append(n)

    @pipeline
    def careless() -> str:
        slow.submit(1)
        slow.submit(2)
        return "done"

    assert await in_plain_code(careless) == "done"
    assert sorted(finished) == [1, 2]


async def test_the_error_of_a_submitted_step_that_nobody_asked_is_the_pipeline_s() -> None:
    @pipeline
    async def careless() -> str:
        fail.submit("unseen")
        return "done"

    handler = careless.run()
    with pytest.raises(KeyError, match="unseen"):
        await handler

    @pipeline
    async def careful() -> str:
        future = fail.submit("seen")
        try:
            await future
        except KeyError:
            assert future.done()
            assert isinstance(future.exception(), KeyError)
        return "done"

    assert await careful() == "done"


async def test_a_blocking_wait_for_a_step_of_the_same_loop_is_refused() -> None:
    @pipeline
    async def deadlock() -> int:
        return double.submit(1).result()

    with pytest.raises(InvalidInput, match="await this step's future"):
        await deadlock()


async def test_steps_may_call_steps() -> None:
    @step
    def outer(n: int) -> int:
        publish({"in": "outer"})
        return add(n, 1)

    @pipeline
    def nested() -> int:
        return outer(1)

    handler = nested.run()
    assert await handler == 2
    assert (await kinds_of(handler))[1:-1] == [
        "step.started outer#1",
        "event outer#1",
        "step.started add#1",
        "event add#1",
        "step.completed add#1",
        "step.completed outer#1",
    ]


async def test_a_step_called_outside_of_any_run_is_an_ordinary_function_call() -> None:
    assert add(1, 2) == 3
    assert await double(2) == 4
    assert await in_plain_code(add.submit(3, 4).result) == 7
    assert await double.submit(4) == 8
    with pytest.raises(KeyError):
        fail("as it is")
    async with connect() as streams:
        assert await streams.list_runs() == []


async def test_a_step_called_in_a_run_of_one_s_own_is_a_step_of_it() -> None:
    async with start_run("mine") as run:
        assert add(1, 2) == 3
        assert await double(1) == 2
        assert await add.submit(2, 3) == 5
    async with connect() as streams:
        handler = streams.handler(run.run_id)
        assert (await kinds_of(handler)).count("step.completed add#1") == 2


async def test_a_pipeline_that_calls_itself_makes_child_runs() -> None:
    @pipeline
    async def countdown(n: int) -> int:
        publish({"n": n})
        return 0 if n == 0 else 1 + await countdown(n - 1)

    handler = countdown.run(3)
    assert await handler == 3
    records = await records_of(handler)
    runs = list(dict.fromkeys(record.run_id for record in records))
    assert len(runs) == 4
    parents = {record.run_id: record.parent_run_id for record in records}
    assert [parents[run] for run in runs] == [None, *runs[:-1]]
    ends = [record.run_id for record in records if record.kind == "run.completed"]
    assert ends == runs[::-1]
    assert [record.data["n"] for record in records if record.kind == "event"] == [3, 2, 1, 0]


async def test_a_plain_pipeline_that_calls_itself_makes_child_runs_too() -> None:
    @pipeline
    def countdown(n: int) -> int:
        return 0 if n == 0 else 1 + countdown(n - 1)

    handler = countdown.run(3)
    assert await handler == 3
    assert len({record.run_id for record in await records_of(handler)}) == 4


async def test_wrong_arguments_are_refused_at_the_call() -> None:
    with pytest.raises(TypeError, match="pipeline 'plain': missing a required argument: 'n'"):
        plain.run()
    with pytest.raises(TypeError, match="too many positional"):
        plain.run(1, 2)
    with pytest.raises(InvalidInput, match="not a run id"):
        plain.run(1, run_id="no spaces")
    with pytest.raises(InvalidInput, match="seconds above 0"):
        pipeline(timeout=-1)
    async with connect() as streams:
        assert await streams.list_runs() == []


async def test_generators_are_neither_pipelines_nor_steps() -> None:
    def generator() -> Any:
        yield 1

    with pytest.raises(InvalidInput, match="a pipeline returns"):
        pipeline(generator)
    with pytest.raises(InvalidInput, match="a step returns"):
        step(generator)


@pytest.mark.parametrize(
    "options", [{"timeout": 0}, {"num_workers": 0}, {"name": ""}, {"name": "a\nb"}], ids=str
)
async def test_a_step_s_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        step(**options)(lambda: None)


async def test_many_called_steps_cost_no_memory_once_they_are_done() -> None:
    @step
    async def nothing() -> None:
        return None

    @pipeline
    async def many() -> int:
        for _ in range(500):
            await nothing()
        return 500

    handler = many.run()
    assert await handler == 500
    assert len(await records_of(handler)) == 1002
    await until(handler.is_done)
