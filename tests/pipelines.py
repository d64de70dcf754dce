"""Pipelines and steps that several tests of pipelines call."""

from __future__ import annotations

import asyncio
from typing import Any

from runstream import (
    Record,
    connect,
    pipeline,
    publish,
    step,
)
from workflow_runs import own_log

__all__ = ["own_log"]


@step
def add(a: int, b: int) -> int:
    publish({"sum": a + b})
    return a + b


@step
async def double(n: int) -> int:
    publish({"doubled": n})
    await asyncio.sleep(0)
    return n * 2


@step
def fail(message: str) -> int:
    raise KeyError(message)


@pipeline
def plain(n: int) -> int:
    publish({"phase": "begun"})
    return add(add(n, 1), 2)


@pipeline(dynamic=True)
async def dynamic(n: int) -> list[int]:
    publish({"phase": "begun"})
    return await asyncio.gather(*[double(i) for i in range(n)])


def in_plain_code(function: Any, *args: Any) -> Any:
    """Call it where no event loop runs."""
    return asyncio.to_thread(function, *args)


async def the_only_run() -> list[Record]:
    async with connect() as streams:
        (run,) = await streams.list_runs()
        return [record async for record in streams.subscribe(run.run_id)]
