"""The runner: blocked loops, killed processes, failing logs and odd results are reported, not hidden."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

from runner_cases import Endless, Failing, First, begun, last_event
from runstream import (
    Context,
    Event,
    InvalidInput,
    RunLost,
    RunTimedOut,
    StartEvent,
    StopEvent,
    Workflow,
    WorkflowLostEvent,
    connect,
    process,
    start_run,
    step,
)
from runstream.payload import NESTING_MAX, encode_payload
from workflow_runs import own_log, records_of

__all__ = ["own_log"]


@pytest.mark.allow_blocking
async def test_a_step_that_blocks_its_loop_is_named_and_the_run_ends_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, own_log: str
) -> None:
    monkeypatch.setenv("RUNSTREAM_BLOCKED_S", "0.05")
    ended: list[str] = []
    release = threading.Event()

    def follow(run_id: str) -> None:
        with connect(own_log) as streams:
            ended.extend(r.kind for r in streams.subscribe(run_id, wait=True) if r.is_terminal)
        release.set()

    class Blocking(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            release.wait(20)
            return StopEvent()

    with caplog.at_level(logging.WARNING):
        handler = Blocking(timeout=1.0, cancel_grace=0.1).run()
        threading.Thread(target=follow, args=(handler.run_id,)).start()
        with pytest.raises(RunTimedOut):
            await handler
    assert ended == ["run.timed_out"]
    assert "step 'work' has blocked its event loop for more than 0.05 s" in caplog.text


async def test_a_process_that_is_killed_leaves_a_lost_run(own_log: str, tmp_path: Path) -> None:
    program = tmp_path / "victim.py"
    program.write_text(
        textwrap.dedent(
            """\
            import asyncio
            from runstream import Context, StartEvent, StopEvent, Workflow, publish, step

            class Endless(Workflow):
                @step
                async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
                    publish({"alive": True}, kind="sign")
                    await asyncio.Event().wait()
                    return StopEvent()

            async def main():
                await Endless().run(run_id="victim")

            asyncio.run(main())
            """
        )
    )
    environment = {**os.environ, "RUNSTREAM_URL": own_log, "RUNSTREAM_LEASE_S": "0.5"}
    with subprocess.Popen([sys.executable, program], env=environment) as victim:
        async with connect() as streams:
            handler = streams.handler("victim")
            try:
                async with handler.subscribe(kinds="sign", wait=True) as records:
                    await anext(records)
                followers = [asyncio.create_task(last_event(handler)) for _ in range(3)]
            finally:
                victim.kill()
            with pytest.raises(RunLost):
                await handler
            for event in await asyncio.gather(*followers):
                assert isinstance(event, WorkflowLostEvent)


async def test_a_run_that_the_log_gave_up_is_stopped_here(own_log: str) -> None:
    handler = Endless().run()
    await begun(handler)
    async with connect() as streams:
        lease = (await streams.info(handler.run_id)).lease
        assert lease is not None
        await streams.log.expire(handler.run_id, lease=lease)
    with pytest.raises(RunLost):
        await handler
    assert [r.kind for r in await records_of(handler)][-1] == "run.lost"


async def test_a_log_that_cannot_be_used_is_reported_to_who_awaits(tmp_path: Path) -> None:
    (tmp_path / "not-a-log").write_text(
        "something else entirely, and long enough to be a header" * 9
    )
    handler = Failing().run(url=f"sqlite:{tmp_path}/not-a-log")
    with pytest.raises(Exception, match="not"):
        await handler
    with pytest.raises(Exception, match="not"):
        _ = [event async for event in handler.stream_events()]
    assert handler.is_done()


class Secret:
    """Neither JSON nor picklable."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __repr__(self) -> str:
        return "<a secret>"


async def test_a_result_that_is_not_json_reaches_who_awaits_here_and_the_record_says_so() -> None:
    class Loose(Event):
        """Events keep what else they get."""

    class Odd(Workflow):
        @step
        async def begin(self, ev: StartEvent) -> Loose:
            assert isinstance(ev.given, Secret)
            return Loose.model_validate({"secret": ev.given})

        @step
        async def end(self, ev: Loose) -> StopEvent:
            return StopEvent(result=ev.secret)

    secret = Secret()
    handler = Odd().run(given=secret)
    assert await handler is secret
    records = await records_of(handler)
    assert records[-1].data == {"result": None, "result_repr": "<a secret>", "not_json": True}
    assert records[0].data["not_json"] is True
    assert "given" in records[0].data["input_repr"]
    async with connect() as streams:
        assert await streams.handler(handler.run_id) is None


async def test_cyclic_and_huge_results_are_results_too() -> None:
    class Big(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            if ev.cyclic:
                cycle: list[Any] = []
                cycle.append(cycle)
                return StopEvent(result=cycle)
            return StopEvent(result="x" * 3_000_000)

    assert isinstance(await Big().run(cyclic=True), list)
    handler = Big().run(cyclic=False)
    assert len(await handler) == 3_000_000
    data = (await records_of(handler))[-1].data
    assert data["too_large"] is True
    assert len(data["result_repr"]) == 500


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


@pytest.mark.parametrize("depth", [NESTING_MAX - 1, NESTING_MAX, NESTING_MAX + 1])
async def test_a_result_may_be_as_deep_as_a_record_less_one_and_a_deeper_one_is_shown(
    depth: int,
) -> None:
    class Deep(Workflow):
        @step
        def inner(self) -> list[Any]:
            return nested(depth)

        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            return StopEvent(result=self.inner())

    handler = Deep().run(given=nested(depth - 1))
    assert await asyncio.wait_for(handler, 20) == nested(depth)
    for record in await records_of(handler):
        encode_payload(bytes(record.raw))  # as a server looks at it
    data = (await records_of(handler))[-1].data
    assert data.get("not_json", False) is (depth >= NESTING_MAX)


async def test_the_end_of_a_run_is_recorded_whatever_the_limit_on_its_own_records(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RUNSTREAM_RECORD_SIZE_BYTES", "1024")
    process.close_publishers()

    class Wordy(Workflow):
        @step
        async def work(self, ev: StartEvent) -> StopEvent:
            raise ValueError("x" * 5000)

    handler = Wordy().run(given="y" * 5000)
    with pytest.raises(ValueError, match="xxx"):
        await asyncio.wait_for(handler, 20)
    assert (await records_of(handler))[-1].kind == "run.failed"

    run = start_run("wordy")
    with pytest.raises(ValueError, match="xxx"):
        async with run:
            raise ValueError("x" * 5000)
    async with connect() as streams:
        assert (await streams.info(run.run_id)).status == "failed"


async def test_an_event_that_is_not_json_cannot_be_written_to_the_stream() -> None:
    class Writer(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(First.model_validate({"odd": Secret()}))
            return StopEvent()

    with pytest.raises(InvalidInput, match="not JSON"):
        await Writer().run()
