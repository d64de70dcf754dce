"""How runs end: failures, retries, time limits, cancelling, lost processes; and what is in the way."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    Context,
    Event,
    Handler,
    InvalidInput,
    Retry,
    RunCancelled,
    RunEnded,
    RunFailed,
    RunLost,
    RunTimedOut,
    StartEvent,
    StepTimedOut,
    StopEvent,
    Task,
    Workflow,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowLostEvent,
    WorkflowTimedOutEvent,
    connect,
    process,
    publish,
    step,
)
from workflow_runs import kinds_of, own_log, records_of, until

__all__ = ["own_log"]


class First(Event):
    text: str = ""


class Progress(Event, kind="runner_progress"):
    n: int


async def last_event(handler: Handler) -> Event:
    return [event async for event in handler.stream_events()][-1]


# --- failures and retries ------------------------------------------------------------------------


class Failing(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        raise KeyError("gone")


async def test_a_failure_is_in_the_stream_before_it_is_raised_as_itself() -> None:
    handler = Failing().run()
    with pytest.raises(KeyError, match="gone") as raised:
        await handler
    async with connect() as streams:
        stored = [r async for r in streams.subscribe(handler.run_id, follow=False)]
        assert stored[-1].kind == "run.failed"
        with pytest.raises(RunFailed, match="KeyError: 'gone'"):
            await streams.handler(handler.run_id)
    event = await last_event(handler)
    assert isinstance(event, WorkflowFailedEvent)
    assert event.step_name == "work"
    assert event.exception == {"type": "KeyError", "message": "'gone'"}
    assert event.attempts == 1
    assert (event.elapsed_seconds or 0) >= 0
    assert handler.status == "failed"
    with pytest.raises(KeyError) as again:
        await handler.result()
    assert again.value is raised.value


async def test_each_failed_attempt_is_marked_with_its_error_and_the_pause() -> None:
    class Flaky(Workflow):
        @step(retry=Retry(attempts=3, delay=0.01, jitter=False))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            publish({"attempt": ctx.attempt})
            if ctx.attempt < 3:
                raise OSError(f"no {ctx.attempt}")
            return StopEvent(result="at last")

    handler = Flaky().run()
    assert await handler == "at last"
    assert await kinds_of(handler) == [
        "run.started",
        "step.started work#1",
        "event work#1",
        "step.retrying work#1",
        "step.started work#2",
        "event work#2",
        "step.retrying work#2",
        "step.started work#3",
        "event work#3",
        "step.completed work#3",
        "run.completed",
    ]
    records = await records_of(handler)
    assert records[3].data == {
        "attempt": 1,
        "error": {"type": "OSError", "message": "no 1"},
        "delay": 0.01,
    }
    assert records[6].data["delay"] == 0.02
    # So the records of the failed attempts can be told from those of the good one.
    assert len({record.step_run_id for record in records[1:-1]}) == 1


async def test_retries_end_and_only_the_covered_errors_have_any() -> None:
    class Hopeless(Workflow):
        @step(retry=Retry(attempts=2, delay=0, on=(OSError, KeyError)))
        async def work(self, ev: StartEvent) -> StopEvent:
            raise ev.error

    handler = Hopeless().run(error=OSError("never"))
    with pytest.raises(OSError, match="never"):
        await handler
    event = await last_event(handler)
    assert isinstance(event, WorkflowFailedEvent)
    assert event.attempts == 2
    other = Hopeless().run(error=ValueError("at once"))
    with pytest.raises(ValueError, match="at once"):
        await other
    assert (await last_event(other)).attempts == 1


async def test_a_plain_step_is_retried_in_its_thread() -> None:
    class Plain(Workflow):
        @step(retry=Retry(attempts=2, delay=0))
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.attempt == 1:
                raise OSError("once")
            return StopEvent(result="twice")

    assert await Plain().run() == "twice"


async def test_a_failure_stops_what_runs_beside_it() -> None:
    stopped = asyncio.Event()

    class TwoSteps(Workflow):
        @step
        async def long(self, ev: StartEvent) -> None:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                stopped.set()
                raise

        @step
        async def short(self, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(0.01)
            raise ValueError("short")

    handler = TwoSteps().run()
    with pytest.raises(ValueError, match="short"):
        await handler
    assert stopped.is_set()
    assert (await kinds_of(handler))[-3:] == [
        "step.failed short#1",
        "step.cancelled long#1",
        "run.failed",
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("text", "step 'work' returned a str: a step returns an event"),
        ({"a": 1}, "returned a dict"),
        ([First(), 3], "returned a int in a list"),
        (First(), "returned a First, which no step accepts"),
    ],
    ids=str,
)
async def test_a_step_that_returns_what_it_must_not_fails_the_run_and_isn_t_retried(
    wrong: Any, message: str
) -> None:
    class Wrong(Workflow):
        @step(retry=Retry(attempts=5, delay=0))
        async def work(self, ev: StartEvent):  # type: ignore[no-untyped-def] # noqa: ANN202 - the point
            return wrong

    handler = Wrong().run()
    with pytest.raises(InvalidInput, match=message):
        await handler
    assert (await last_event(handler)).attempts == 1


async def test_a_run_in_which_nothing_is_left_to_do_fails_instead_of_hanging() -> None:
    class Stuck(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent | None:
            return None

    with pytest.raises(RunFailed, match="none has returned a StopEvent"):
        await Stuck().run()


# --- time limits ---------------------------------------------------------------------------------


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
        @step(timeout=0.02, retry=Retry(attempts=2, delay=0))
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.attempt == 1:
                await asyncio.sleep(60)
            return StopEvent(result=ctx.attempt)

    handler = Slow().run()
    assert await handler == 2
    retrying = next(r for r in await records_of(handler) if r.kind == "step.retrying")
    assert retrying.data["error"] == {
        "type": "StepTimedOut",
        "message": "step 'work' exceeded its 0.02 s",
    }


async def test_a_step_that_exceeds_its_time_for_good_fails_the_run() -> None:
    class Slow(Workflow):
        @step(timeout=0.02)
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await asyncio.sleep(60)
            return StopEvent()

    handler = Slow().run()
    with pytest.raises(RunFailed, match="StepTimedOut: step 'work' exceeded its"):
        await handler


async def test_an_attempt_whose_time_is_up_can_publish_no_more() -> None:
    heard: list[BaseException] = []
    go = threading.Event()

    class Stubborn(Workflow):
        @step(timeout=0.02, retry=Retry(attempts=2, delay=0))
        def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            if ctx.attempt == 2:
                return StopEvent(result="second")
            go.wait(10)
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


# --- cancelling ----------------------------------------------------------------------------------


class Endless(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Progress(n=1))
        await asyncio.Event().wait()
        return StopEvent()


async def begun(handler: Handler) -> None:
    """Wait until the run's step has published something."""
    async with handler.subscribe(kinds="runner_progress") as records:
        await anext(records)


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
            await asyncio.wait_for(go.wait(), 10)
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


# --- what is in the way --------------------------------------------------------------------------


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
        handler = Blocking(timeout=0.2, cancel_grace=0.1).run()
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
            async with handler.subscribe(kinds="sign", wait=True) as records:
                await anext(records)
            followers = [asyncio.create_task(last_event(handler)) for _ in range(3)]
            victim.send_signal(signal.SIGKILL)
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


async def test_an_event_that_is_not_json_cannot_be_written_to_the_stream() -> None:
    class Writer(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            ctx.write_event_to_stream(First.model_validate({"odd": Secret()}))
            return StopEvent()

    with pytest.raises(InvalidInput, match="not JSON"):
        await Writer().run()


# --- children ------------------------------------------------------------------------------------


class Child(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        ctx.write_event_to_stream(Progress(n=ev.n))
        if ev.n < 0:
            await asyncio.Event().wait()
        return StopEvent(result=ev.n * 10)


class Parent(Workflow):
    @step
    async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
        first = Child().run(n=1, run_id=f"{ctx.run_id}-1")
        second = Child().run(n=2)
        return StopEvent(result=[await first, await second])


async def test_a_child_s_events_are_in_its_root_s_stream_and_its_end_ends_only_itself() -> None:
    handler = Parent().run(run_id="parent")
    events = [event async for event in handler.stream_events()]
    assert sorted(event.n for event in events[:-1]) == [1, 2]
    assert await handler == [10, 20]
    records = await records_of(handler)
    assert {record.run_id for record in records} == {"parent", "parent-1"} | {
        record.run_id for record in records
    }
    assert len({record.run_id for record in records}) == 3
    assert records[-1].kind == "run.completed"
    assert records[-1].run_id == "parent"
    async with connect() as streams:
        child = streams.handler("parent-1")
        assert (await child.info()).parent_run_id == "parent"
        own = [record async for record in child.subscribe()]
        assert {record.run_id for record in own} == {"parent-1"}
        assert own[-1].kind == "run.completed"
        assert await child == 10


async def test_a_run_s_end_cancels_the_children_that_it_did_not_wait_for() -> None:
    class Careless(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            await begun(Child().run(n=-1))
            return StopEvent(result="gone")

    handler = Careless().run()
    assert await handler == "gone"
    kinds = [(r.kind, r.run_id == handler.run_id) for r in await records_of(handler)]
    assert kinds[-2:] == [("run.cancelled", False), ("run.completed", True)]


async def test_cancelling_a_run_cancels_its_children() -> None:
    class Waiting(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            return StopEvent(result=await Child().run(n=-1))

    handler = Waiting().run()
    await begun(handler)
    await handler.cancel_run()
    with pytest.raises(RunCancelled):
        await handler
    ends = [
        (r.kind, r.run_id == handler.run_id) for r in await records_of(handler) if r.is_terminal
    ]
    assert ends == [("run.cancelled", False), ("run.cancelled", True)]


async def test_a_child_s_failure_is_an_error_in_its_parent() -> None:
    class Catching(Workflow):
        @step
        async def work(self, ctx: Context, ev: StartEvent) -> StopEvent:
            try:
                await Failing().run()
            except KeyError as error:
                return StopEvent(result=f"caught {error}")
            return StopEvent()

    assert await Catching().run() == "caught 'gone'"


# --- loops ---------------------------------------------------------------------------------------


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


# --- many ----------------------------------------------------------------------------------------


@pytest.mark.allow_blocking  # three threads share the interpreter; what waits for it isn't at fault
async def test_many_runs_at_once_all_end_with_their_own_result() -> None:
    class Chain(Workflow):
        @step
        async def one(self, ev: StartEvent) -> First:
            return First(text=f"{ev.n}")

        @step
        async def two(self, ev: First) -> StopEvent:
            return StopEvent(result=int(ev.text))

    workflow = Chain()
    handlers = [workflow.run(n=n) for n in range(300)]
    assert await asyncio.gather(*[handler.result() for handler in handlers]) == list(range(300))
    async with connect() as streams:
        assert len(await streams.list_runs(status="completed")) == 300
