"""An event that is sent to a pipeline: stored, and said to be of no use."""

from __future__ import annotations

import asyncio
import logging

import pytest

from runstream import HumanResponseEvent, pipeline, step
from workflow_runs import own_log

__all__ = ["own_log"]

HANG_S = 30


async def test_an_event_sent_to_a_pipeline_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            loop.call_soon_threadsafe(told.set)

    listener = Listener()
    logging.getLogger("runstream.pipeline").addHandler(listener)

    @step
    async def wait_until_told() -> None:
        await asyncio.wait_for(told.wait(), HANG_S)

    @pipeline
    async def deaf() -> str:
        await wait_until_told()
        return "done"

    try:
        handler = deaf.run()
        await handler.send_event(HumanResponseEvent(response="yes"))
        assert await handler == "done"
    finally:
        logging.getLogger("runstream.pipeline").removeHandler(listener)
    (warning,) = [r.getMessage() for r in caplog.records if r.name == "runstream.pipeline"]
    assert "'HumanResponseEvent'" in warning
    assert "a pipeline reads none" in warning
    assert handler.run_id in warning
