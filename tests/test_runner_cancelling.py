"""The runner: time limits, and cancelling from anywhere."""

from __future__ import annotations

import asyncio
import gc
import io
import sys
import textwrap
import threading
import time
from typing import cast

import pytest

from runner_cases import Endless, First, Progress, begun, last_event
from runstream import (
    Context,
    Retry,
    RunCancelled,
    RunEnded,
    RunTimedOut,
    StartEvent,
    StepTimedOut,
    StopEvent,
    Task,
    Workflow,
    WorkflowCancelledEvent,
    WorkflowTimedOutEvent,
    connect,
    process,
    publish,
    step,
)
from runstream.local_handler import LocalHandler
from runstream.log import Producer
from runstream.payload import RECORD_SIZE_BYTES_MAX
from runstream.record import make_draft
from workflow_runs import kinds_of, own_log, records_of, until

__all__ = ["own_log"]

PATIENCE_S = 20.0
# A step's time, where a later attempt has to be within it however busy the machine is.
LIMIT_S = 1.0


async def test_a_step_that_never_returns_ends_with_the_run_s_time() -> None:
    class Endless(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await asyncio.Event().wait()
            return StopEvent()

    handler = Endless(timeout=0.05).run()
    with pytest.raises(RunTimedOut, match=r"exceeded its 0\.05 s"):
        await handler
    event = await last_event(handler)
    assert isinstance(event, WorkflowTimedOutEvent)
    assert (event.timeout, event.active_steps) == (0.05, ["work"])
    assert handler.status == "timed_out"


async def test_an_attempt_that_exceeds_the_step_s_time_is_cancelled_and_retried() -> None:
    class Slow(Workflow):
        @step(timeout=LIMIT_S, retry=Retry(attempts=2, delay=0))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.attempt == 1:
                await asyncio.sleep(60)
            return StopEvent(result=ctx.attempt)

    handler = Slow().run()
    assert await handler == 2
    retrying = next(r for r in await records_of(handler) if r.kind == "step.retrying")
    assert retrying.data["error"] == {
        "type": "StepTimedOut",
        "message": "step 'work' exceeded its 1 s",
    }


async def test_a_step_that_exceeds_its_time_for_good_fails_the_run() -> None:
    class Slow(Workflow):
        @step(timeout=0.02)
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(60)
            return StopEvent()

    handler = Slow().run()
    with pytest.raises(StepTimedOut, match="step 'work' exceeded its"):
        await handler


async def test_an_attempt_whose_time_is_up_can_publish_no_more() -> None:
    heard: list[BaseException] = []
    go = threading.Event()

    class Stubborn(Workflow):
        @step(timeout=LIMIT_S, retry=Retry(attempts=2, delay=0))
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.attempt == 2:
                return StopEvent(result="second")
            go.wait(30)
            try:
                publish({"late": 1})
            except StepTimedOut as error:
                heard.append(error)
            try:
                ctx.send_event(First())
            except StepTimedOut as error:
                heard.append(error)
            return StopEvent(result="first")

    handler = Stubborn().run()
    assert await handler == "second"
    go.set()
    await until(lambda: len(heard) == 2)
    assert "event work#1" not in await kinds_of(handler)


async def test_cancelling_ends_the_run_for_all_who_follow_or_await_it() -> None:
    handler = Endless().run()
    await begun(handler)
    following = [asyncio.create_task(last_event(handler)) for _ in range(3)]
    await handler.cancel_run("enough")
    with pytest.raises(RunCancelled, match="enough"):
        await handler
    for event in await asyncio.gather(*following):
        assert isinstance(event, WorkflowCancelledEvent)
        assert event.reason == "enough"
        assert event.active_steps == ["work"]
    assert (await kinds_of(handler))[-3:] == [
        "run.cancel_requested",
        "step.cancelled work#1",
        "run.cancelled",
    ]
    with pytest.raises(RunEnded):
        await handler.cancel_run()


async def test_another_process_can_cancel() -> None:
    handler = Endless().run()
    await begun(handler)
    code = f"""
        import asyncio
        from runstream import connect
        async def main():
            async with connect() as streams:
                await streams.handler({handler.run_id!r}).cancel_run("from afar")
        asyncio.run(main())
    """
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", textwrap.dedent(code))
    with pytest.raises(RunCancelled, match="from afar"):
        await handler
    assert await child.wait() == 0


async def test_cancelling_who_follows_or_awaits_does_not_cancel_the_run() -> None:
    go = asyncio.Event()

    class Patient(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Progress(n=1))
            await asyncio.wait_for(go.wait(), 30)
            return StopEvent(result="unmoved")

    handler = Patient().run()
    await begun(handler)
    others = [asyncio.ensure_future(handler.result()), asyncio.ensure_future(last_event(handler))]
    await asyncio.sleep(0)
    for other in others:
        other.cancel()
    await asyncio.wait(others)
    assert all(other.cancelled() for other in others)
    go.set()
    assert await handler == "unmoved"


async def test_a_step_that_swallows_cancellation_does_not_keep_the_run() -> None:
    freed = asyncio.Event()

    class Stubborn(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(Progress(n=1))
            while not freed.is_set():
                try:
                    await freed.wait()
                except asyncio.CancelledError:
                    continue
            with pytest.raises(RunEnded):
                publish({"too": "late"})
            return StopEvent(result="too late")

    handler = Stubborn(cancel_grace=0.05).run()
    await begun(handler)
    await handler.cancel_run()
    with pytest.raises(RunCancelled):
        await handler
    records = await records_of(handler)
    assert records[-2].kind == "step.cancelled"
    assert records[-2].data == {"abandoned": True}
    assert records[-1].data["active_steps"] == ["work"]
    assert records[-1].data["abandoned_steps"] == ["work"]
    freed.set()
    await asyncio.sleep(0)
    assert len(await records_of(handler)) == len(records)


async def test_a_step_may_clean_up_when_it_is_cancelled() -> None:
    class Tidy(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            async with Task("tidy", state={"open": True}):
                ctx.write_event_to_stream(Progress(n=1))
                await asyncio.Event().wait()
            return StopEvent()

    handler = Tidy().run()
    await begun(handler)
    await handler.cancel_run()
    with pytest.raises(RunCancelled):
        await handler
    assert (await kinds_of(handler))[-3:] == [
        "task.cancelled work#1",
        "step.cancelled work#1",
        "run.cancelled",
    ]


async def test_a_plain_step_hears_of_the_cancel_when_it_publishes() -> None:
    class Looping(Workflow):
        @step
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for n in range(10**9):
                publish(Progress(n=n))
                time.sleep(0.001)
            return StopEvent()

    handler = Looping(cancel_grace=30).run()
    await begun(handler)
    await handler.cancel_run()
    with pytest.raises(RunCancelled):
        await handler
    records = await records_of(handler)
    assert [record.kind for record in records[-2:]] == ["step.cancelled", "run.cancelled"]
    assert records[-2].data == {}


async def test_a_run_that_waits_for_its_next_attempt_can_be_cancelled() -> None:
    class Waiting(Workflow):
        @step(retry=Retry(attempts=2, delay=60))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            raise OSError("wait for me")

    handler = Waiting().run()
    async with handler.subscribe(kinds="step.retrying") as records:
        await anext(records)
    await handler.cancel_run()
    with pytest.raises(RunCancelled):
        await handler
    event = await last_event(handler)
    assert isinstance(event, WorkflowCancelledEvent)
    assert event.active_steps == ["work"]


async def test_a_step_that_is_cancelled_from_elsewhere_cancels_its_run() -> None:
    class Suicidal(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            current = asyncio.current_task()
            assert current is not None
            current.cancel()
            await asyncio.sleep(0)
            return StopEvent()

    with pytest.raises(RunCancelled, match="step 'work' was cancelled"):
        await Suicidal().run()


def test_the_end_of_the_event_loop_cancels_the_run(sqlite_url: str) -> None:
    async def main() -> str:
        handler = Endless().run(url=sqlite_url)
        await begun(handler)
        return handler.run_id

    run_id = asyncio.run(main())
    with connect(sqlite_url) as streams:
        records = list(streams.subscribe(run_id))
    process.close_publishers()
    assert records[-1].kind == "run.cancelled"


async def test_a_run_goes_on_when_nobody_keeps_its_handler() -> None:
    class Quiet(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            for _ in range(5):
                await asyncio.sleep(0.001)
            return StopEvent(result="done")

    run_id = Quiet().run().run_id
    gc.collect()
    async with connect() as streams:
        kinds: list[str] = []
        async for record in streams.subscribe(run_id, wait=True):
            gc.collect()
            kinds.append(record.kind)
        assert kinds[-1] == "run.completed"


def test_a_loop_that_is_closed_with_a_run_in_it_ends_the_run(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNSTREAM_BLOCKED_S", "0.05")
    loop = asyncio.new_event_loop()

    async def main() -> str:
        handler = Endless(cancel_grace=0.05).run(url=sqlite_url)
        await begun(handler)
        return handler.run_id

    run_id = loop.run_until_complete(main())
    left = asyncio.all_tasks(loop)
    loop.close()
    with connect(sqlite_url) as streams:
        end = list(streams.subscribe(run_id))[-1]
    assert end.kind == "run.cancelled"
    assert end.data["reason"] == "its event loop was closed"
    process.close_publishers()
    for task in left:
        # What a program that closes its loop like this gets to hear is asyncio's to say, not ours.
        task._log_destroy_pending = False  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue] - its own switch
        coroutine = task.get_coro()
        assert coroutine is not None
        coroutine.close()


async def test_a_step_that_begins_at_the_moment_of_the_cancelling_is_stopped_as_the_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Two(Workflow):
        @step
        async def one(self, ev: StartEvent) -> StopEvent:
            await asyncio.Event().wait()
            return StopEvent()

        @step
        async def two(self, ev: StartEvent) -> StopEvent:
            await asyncio.Event().wait()
            return StopEvent()

    class Cancelling(io.StringIO):
        """What a workflow says that the first of its two steps begins: then it is cancelled."""

        def write(self, text: str, /) -> int:
            if "begins" in text:
                cast(LocalHandler, handler)._runner.cancel()  # pyright: ignore[reportPrivateUsage] # at once
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Cancelling())
    handler = Two(verbose=True, cancel_grace=PATIENCE_S).run()
    with pytest.raises(RunCancelled):
        await handler
    kinds = await kinds_of(handler)
    assert {"step.cancelled one#1", "step.cancelled two#1"} < set(kinds)
    assert "abandoned_steps" not in (await records_of(handler))[-1].data


@pytest.mark.parametrize("data", [b"null", b'{"reason": 7}'])
async def test_a_request_to_cancel_may_hold_anything(own_log: str, data: bytes) -> None:
    handler = Endless().run()
    await begun(handler)
    log = await asyncio.to_thread(process.acquire_log, own_log)
    draft = make_draft(handler.run_id, "run.cancel_requested", data)
    await log.append(handler.run_id, [draft], producer=Producer("anyone", 0, 1))
    await process.release_log(own_log, log)
    with pytest.raises(RunCancelled):
        await asyncio.wait_for(handler, PATIENCE_S)
    assert (await last_event(handler)).reason is None


async def test_a_reason_as_long_as_a_record_cancels_as_a_short_one_does(own_log: str) -> None:
    handler = Endless().run()
    await begun(handler)
    empty = len(b'{"reason":""}')
    await handler.cancel_run("x" * (RECORD_SIZE_BYTES_MAX - empty))
    with pytest.raises(RunCancelled):
        await asyncio.wait_for(handler, PATIENCE_S)
    end = await last_event(handler)
    assert end.reason.startswith("xxx")
