"""Publishing from anywhere inside a run: who a record belongs to, and when it is stored."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import msgspec
import pytest

from publishing_workers import publish_and_end, publish_numbers
from runstream import (
    Event,
    InvalidInput,
    LogUnavailable,
    Record,
    RunEnded,
    attach,
    bind,
    connect,
    drain,
    flush,
    process,
    publish,
    publisher_stats,
    run_environment,
    start_run,
)
from runstream.context import Scope, current_scope
from runstream.logs.memory import MemoryLog

PATIENCE_S = 30.0

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.fixture(autouse=True)
def closed_publishers() -> Generator[None]:
    yield
    process.close_publishers()


@pytest.fixture(params=["memory", "sqlite"])
def url(request: pytest.FixtureRequest, sqlite_url: str) -> Generator[str]:
    """Each embedded log. Held open here, as a memory log lives only as long as it is used."""
    url = "memory:" if request.param == "memory" else sqlite_url
    with connect(url):
        yield url


def published(url: str, run_id: str) -> list[Record]:
    """The user's records of a run that has ended."""
    with connect(url) as streams:
        records = list(streams.subscribe(run_id, follow=False))
    assert records[-1].is_terminal
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    return [record for record in records if not record.kind.startswith("run.")]


def numbers(url: str, run_id: str) -> list[int]:
    return [record.data["n"] for record in published(url, run_id)]


def in_step(step: str, attempt: int = 1) -> None:
    """Let the calling context be inside a step, as an engine does."""
    scope = current_scope.get()
    assert scope is not None
    current_scope.set(Scope(scope.outlet, scope.run_id, step, f"{step}-run", attempt))


class Published(Event):
    done: int


class Named(Event, kind="custom-kind"):
    pass


# --- what a record says --------------------------------------------------------------------------


def test_a_record_carries_what_was_given(url: str) -> None:
    with start_run("w", url=url) as run:
        publish({"a": 1}, kind="token", topic="t", correlation_id="gen-1", index=7)
        publish(Published(done=1))
        publish(Named())
        publish(Named(), kind="other")
        publish(b"[1, 2]")
    first, *rest = published(url, run.run_id)
    assert (first.kind, first.topic, first.correlation_id, first.index) == (
        "token",
        "t",
        "gen-1",
        7,
    )
    assert (first.step, first.step_run_id, first.attempt) == (None, None, None)
    assert [record.kind for record in rest] == ["Published", "custom-kind", "other", "event"]
    assert rest[0].as_event() == Published(done=1)
    assert rest[3].data == [1, 2]


def test_the_clock_of_a_record_is_that_of_the_call(url: str) -> None:
    before = time.time()
    with start_run("w", url=url) as run:
        publish({})
    assert before - 1 <= published(url, run.run_id)[0].time.timestamp() <= time.time() + 1


@pytest.mark.parametrize(
    "bad",
    [
        {"payload": {"a": float("nan")}},
        {"payload": "text"},
        {"payload": {"a": "x" * 2 * 1024 * 1024}},
        {"kind": ""},
        {"kind": "run.completed"},
        {"kind": "stream.gap"},
        {"kind": "a\nb"},
        {"kind": 7},
        {"kind": ["a"]},
        {"topic": ""},
        {"topic": "a\rb"},
        {"topic": {"a": 1}},
        {"correlation_id": "a\0b"},
        {"correlation_id": "\ud800"},
        {"correlation_id": b"x"},
        {"index": 1.5},
        {"index": True},
        {"index": 2**53},
    ],
    ids=lambda bad: str(bad)[:40],
)
def test_what_cannot_be_stored_is_refused_at_the_call(bad: dict[str, Any]) -> None:
    with start_run("w", url="memory:") as run, connect("memory:") as streams:
        with pytest.raises(InvalidInput):
            publish(bad.pop("payload", {}), **bad)
        publish({"fine": True})
        assert flush(PATIENCE_S)
        kinds = [record.kind for record in streams.subscribe(run.run_id, follow=False)]
    assert kinds == ["run.started", "event"]


def test_the_limit_on_a_record_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNSTREAM_RECORD_SIZE_BYTES", "1024")
    with start_run("w", url="memory:"), pytest.raises(InvalidInput, match="1024"):
        publish({"a": "x" * 1100})


def test_changing_the_payload_afterwards_changes_nothing(url: str) -> None:
    payload = {"n": 1}
    with start_run("w", url=url) as run:
        for _ in range(3):
            publish(payload)
            payload["n"] += 1
    assert numbers(url, run.run_id) == [1, 2, 3]


# --- who it belongs to ---------------------------------------------------------------------------


def test_outside_any_run_a_record_is_dropped_with_a_debug_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = publisher_stats().dropped_outside
    with caplog.at_level(logging.DEBUG, logger="runstream"):
        publish({"n": 1}, kind="token")
    assert publisher_stats().dropped_outside == before + 1
    assert [record.levelname for record in caplog.records] == ["DEBUG"]
    assert "outside any run" in caplog.text


def test_outside_any_run_bad_input_is_refused_all_the_same() -> None:
    with pytest.raises(InvalidInput):
        publish({}, kind="run.started")


async def test_concurrent_tasks_keep_to_their_own_runs_and_steps(url: str) -> None:
    async def work(name: str) -> str:
        async with start_run("w", url=url, parent=None) as run:
            in_step(name)
            for _ in range(20):
                publish({"name": name})
                await asyncio.sleep(0)
        return run.run_id

    names = [f"step-{number}" for number in range(5)]
    run_ids = await asyncio.gather(*map(work, names))
    for name, run_id in zip(names, run_ids, strict=True):
        records = await asyncio.to_thread(published, url, run_id)
        assert [(record.data["name"], record.step) for record in records] == [(name, name)] * 20


async def test_to_thread_and_tasks_inherit_the_run(url: str) -> None:
    async with start_run("w", url=url) as run:
        in_step("train", attempt=2)
        await asyncio.to_thread(publish, {"n": 1})
        await asyncio.create_task(_publish_async(2))
    records = await asyncio.to_thread(published, url, run.run_id)
    assert [record.data["n"] for record in records] == [1, 2]
    assert {(record.step, record.step_run_id, record.attempt) for record in records} == {
        ("train", "train-run", 2)
    }


async def _publish_async(number: int) -> None:
    await asyncio.sleep(0)
    publish({"n": number})


def test_a_plain_thread_is_outside_and_bind_carries_the_run_into_it(url: str) -> None:
    before = publisher_stats().dropped_outside
    with start_run("w", url=url) as run:
        for target in (publish, bind(publish)):
            threads = [threading.Thread(target=target, args=({"n": n},)) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert publisher_stats().dropped_outside == before + 4
    assert sorted(numbers(url, run.run_id)) == [0, 1, 2, 3]


def test_an_executors_thread_is_given_back_as_it_was(url: str) -> None:
    with ThreadPoolExecutor(1) as executor, start_run("w", url=url) as run:
        executor.submit(bind(publish), {"n": 1}).result()
        assert executor.submit(current_scope.get).result() is None
        list(executor.map(bind(publish), [{"n": 2}, {"n": 3}]))
    assert numbers(url, run.run_id) == [1, 2, 3]


def test_bind_keeps_the_step_of_the_moment_that_it_was_called(url: str) -> None:
    with start_run("w", url=url) as run:
        in_step("first")
        bound = bind(publish)
        in_step("second")
        bound({})
        publish({})
    assert [record.step for record in published(url, run.run_id)] == ["first", "second"]


async def test_bind_works_for_coroutine_functions_and_returns_what_they_return(url: str) -> None:
    @bind
    async def outside(value: int) -> int:
        publish({"n": value})
        return value

    async with start_run("w", url=url) as run:

        @bind
        async def inside(value: int) -> int:
            await asyncio.sleep(0)
            publish({"n": value})
            return value * 2

    assert await outside(1) == 1
    with pytest.raises(RunEnded):
        await inside(1)
    assert await asyncio.to_thread(numbers, url, run.run_id) == []


def test_publishing_from_many_event_loops_works(url: str) -> None:
    def loop_of_its_own(number: int) -> None:
        asyncio.run(_publish_async(number))

    with start_run("w", url=url) as run, ThreadPoolExecutor(4) as executor:
        list(executor.map(bind(loop_of_its_own), range(20)))
    assert sorted(numbers(url, run.run_id)) == list(range(20))


# --- when it is stored ---------------------------------------------------------------------------


def test_flush_says_that_everything_is_stored(url: str) -> None:
    with start_run("w", url=url):
        for number in range(500):
            publish({"n": number})
        assert flush(PATIENCE_S)
        stats = publisher_stats()
        assert stats.queued == 0
    assert flush()


async def test_drain_says_that_everything_is_stored(url: str) -> None:
    async with start_run("w", url=url) as run:
        for number in range(500):
            publish({"n": number})
        assert await drain()
        async with connect(url) as streams:
            assert (await streams.info(run.run_id)).last_seq == 501
    assert await drain(0.1)


@pytest.fixture
def stuck_log(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[], None]]:
    """The memory log of this process takes nothing until this is called."""
    stuck = True
    append = MemoryLog.append

    async def append_or_fail(log: MemoryLog, *args: Any, **options: Any) -> Any:
        if stuck:
            raise LogUnavailable("the disk is full")
        return await append(log, *args, **options)

    def release() -> None:
        nonlocal stuck
        stuck = False

    monkeypatch.setattr(MemoryLog, "append", append_or_fail)
    monkeypatch.setenv("RUNSTREAM_QUEUE_RECORDS", "8")
    yield release
    release()
    process.close_publishers()


async def test_drain_and_flush_give_up_after_their_time(stuck_log: Callable[[], None]) -> None:
    async with start_run("w", url="memory:"):
        publish({})
        assert not await drain(0.01)
        assert not await asyncio.to_thread(flush, 0.01)
        stuck_log()
        assert await drain()


async def test_cancelling_drain_only_stops_the_waiting(stuck_log: Callable[[], None]) -> None:
    async with start_run("w", url="memory:"):
        publish({})
        waiting = asyncio.ensure_future(drain())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        stuck_log()
        assert await drain()


def test_a_loop_that_ends_while_it_drains_harms_nobody(stuck_log: Callable[[], None]) -> None:
    with start_run("w", url="memory:"):
        publish({})
        assert not asyncio.run(drain(0.01))
        stuck_log()
        assert flush(PATIENCE_S)


async def test_a_failing_log_is_told_by_the_stats_and_refuses_when_full(
    stuck_log: Callable[[], None],
) -> None:
    async with start_run("w", url="memory:"):
        with pytest.raises(LogUnavailable, match="disk is full"):
            while True:
                publish({})
                await asyncio.sleep(0)
        stats = publisher_stats()
        assert stats.queued >= 8
        assert stats.last_error is not None
        assert "disk is full" in stats.last_error
        stuck_log()
        assert await drain()
        assert publisher_stats().last_error is None


async def test_what_a_full_queue_drops_is_told_by_the_stats_and_in_the_stream(
    stuck_log: Callable[[], None],
) -> None:
    before = publisher_stats().dropped
    async with connect("memory:") as streams:
        async with start_run("w", url="memory:", overflow="drop_oldest") as run:
            while publisher_stats().last_error is None:
                await asyncio.sleep(0.001)  # until the first batch is on its way, and stuck
            for number in range(100):
                publish({"n": number})
            dropped = publisher_stats().dropped - before
            assert dropped == 92
            stuck_log()
        records = [record async for record in streams.subscribe(run.run_id)]
    marks = [record for record in records if record.kind == "stream.dropped"]
    assert [mark.data for mark in marks] == [{"count": dropped, "reason": "queue_full"}]
    shown = [record.data["n"] for record in records if record.kind == "event"]
    assert len(shown) == 100 - dropped
    assert shown[-1] == 99


def test_publishing_after_the_end_of_the_run_is_an_error(url: str) -> None:
    with start_run("w", url=url) as run:
        late = bind(publish)
    for _ in range(3):
        with pytest.raises(RunEnded, match=run.run_id):
            late({"n": 1})


def test_records_for_a_run_that_ended_elsewhere_are_dropped_with_one_warning(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    before, taken = publisher_stats().dropped, 0
    runner, run = copy_context(), start_run("w", url=url, run_id="r1")
    runner.run(run.__enter__)
    with pytest.raises(RunEnded), attach("r1", url=url):
        publish({"n": 1})
        assert flush(PATIENCE_S)
        runner.run(run.__exit__, None, None, None)
        with pytest.raises(RunEnded):  # as soon as the first of them has come back
            while True:
                publish({"n": taken})
                taken += 1
        assert not flush(PATIENCE_S)
    # (The one that was refused may have been queued at the very moment of the closing.)
    assert publisher_stats().dropped - before in (taken, taken + 1)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1


# --- other processes -----------------------------------------------------------------------------


def python(code: str, *, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_a_subprocess_publishes_into_the_run_and_step_that_the_environment_names(
    sqlite_url: str,
) -> None:
    code = "from runstream import publish\nfor n in range(100): publish({'n': n})"
    with start_run("w", url=sqlite_url) as run:
        in_step("train", attempt=3)
        done = python(code, environment=run_environment())
    assert (done.returncode, done.stderr) == (0, "")
    records = published(sqlite_url, run.run_id)
    assert [record.data["n"] for record in records] == list(range(100))
    assert {(record.step, record.step_run_id, record.attempt) for record in records} == {
        ("train", "train-run", 3)
    }


def test_the_environment_of_a_run_object_names_the_run(sqlite_url: str) -> None:
    code = "from runstream import publish, Task\npublish({'n': 1})\nwith Task('t', state={}): pass"
    with start_run("w", url=sqlite_url) as run:
        done = python(code, environment=run.environment())
    assert (done.returncode, done.stderr) == (0, "")
    kinds = [record.kind for record in published(sqlite_url, run.run_id)]
    assert kinds == ["event", "task.started", "task.completed"]


def test_a_run_that_a_subprocess_starts_is_a_child_of_the_run_in_its_environment(
    sqlite_url: str,
) -> None:
    code = "from runstream import publish, start_run\nwith start_run('inner', run_id='c1'): publish({'n': 1})"
    with start_run("w", url=sqlite_url) as run:
        done = python(code, environment=run.environment())
        assert (done.returncode, done.stderr) == (0, "")
    with connect(sqlite_url) as streams:
        child = streams.info("c1")
        assert (child.parent_run_id, child.root_run_id, child.status) == (
            run.run_id,
            run.run_id,
            "completed",
        )


def test_a_subprocess_of_a_run_that_has_ended_hears_so(sqlite_url: str) -> None:
    code = (
        "from runstream import publish, flush, RunEnded\n"
        "publish({'n': 1})\nassert not flush(20)\n"
        "try: publish({'n': 2})\nexcept RunEnded: print('ended')"
    )
    with start_run("w", url=sqlite_url) as run:
        environment = run.environment()
    done = python(code, environment=environment)
    assert (done.returncode, done.stdout) == (0, "ended\n")


def test_a_subprocess_is_told_that_it_cannot_reach_a_memory_log() -> None:
    code = (
        "from runstream import publish, publisher_stats\npublish({})\npublish({})\n"
        "print(publisher_stats().dropped_outside)"
    )
    with start_run("w", url="memory:") as run:
        done = python(code, environment=run.environment())
    assert (done.returncode, done.stdout) == (0, "2\n")
    assert done.stderr.count("use sqlite:") == 1


def test_a_broken_variable_is_an_error_that_names_it() -> None:
    code = "from runstream import publish\npublish({})"
    done = python(code, environment={**os.environ, "RUNSTREAM_RUN": "{broken"})
    assert done.returncode == 1
    assert "RUNSTREAM_RUN does not name a run" in done.stderr


def _in_child(work: Callable[[], object]) -> int:
    """Fork; the child does the work and ends at once, past every exit handler."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# (From Python 3.12 on, forking with threads is worth a warning, which is what is tested here.)
@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_publishes_as_itself_and_doubles_nothing(sqlite_url: str) -> None:
    def work() -> None:
        publish_numbers(1000, 50)
        assert flush(PATIENCE_S)

    with start_run("w", url=sqlite_url) as run:
        for child in range(5):
            publish_numbers(100 * child, 100)  # mostly still queued when the child is made
            assert _in_child(work) == 0
    got = numbers(sqlite_url, run.run_id)
    assert [number for number in got if number < 1000] == list(range(500))
    assert [number for number in got if number >= 1000] == list(range(1000, 1050)) * 5


@forks
@pytest.mark.allow_blocking  # the other thread leaves the interpreter to nobody
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forking_while_another_thread_publishes_loses_and_doubles_nothing(sqlite_url: str) -> None:
    stop = threading.Event()

    def go_on() -> int:
        number = 0
        while not stop.is_set():
            publish({"n": number})
            number += 1
        return number

    def work() -> None:
        publish_numbers(10**9, 20)
        assert flush(PATIENCE_S)

    with start_run("w", url=sqlite_url) as run, ThreadPoolExecutor(1) as executor:
        going_on: Future[int] = executor.submit(bind(go_on))
        codes = [_in_child(work) for _ in range(10)]
        stop.set()
        count = going_on.result(PATIENCE_S)
    assert codes == [0] * 10
    got = numbers(sqlite_url, run.run_id)
    assert [number for number in got if number < 10**9] == list(range(count))
    assert sorted(number for number in got if number >= 10**9) == sorted(
        [*range(10**9, 10**9 + 20)] * 10
    )


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_leaves_the_block_does_not_end_the_run(sqlite_url: str) -> None:
    pid = 0
    run = start_run("w", url=sqlite_url)
    try:
        with run:
            pid = os.fork()
            publish({"n": pid and 1})
            if pid == 0:
                raise KeyError("the child's own trouble")
            os.waitpid(pid, 0)
            publish({"n": 2})
    except KeyError:
        os._exit(0)
    assert numbers(sqlite_url, run.run_id).count(0) == 1
    assert numbers(sqlite_url, run.run_id)[-1] == 2


@forks
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_of_a_memory_log_is_told_that_it_cannot_reach_it() -> None:
    def work() -> None:
        with pytest.raises(LogUnavailable, match="use sqlite:"):
            publish({"n": 1})
        assert flush(PATIENCE_S)

    with connect("memory:"), start_run("w", url="memory:") as run:
        publish({"n": 0})
        assert _in_child(work) == 0
        publish({"n": 2})
        assert flush(PATIENCE_S)
        assert run.run_id


@pytest.mark.parametrize(
    "method", [pytest.param("fork", marks=forks), "spawn", pytest.param("forkserver", marks=forks)]
)
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_processes_of_multiprocessing_store_what_they_published_just_before_they_ended(
    sqlite_url: str, method: str
) -> None:
    make: Any = multiprocessing.get_context(method)
    with start_run("w", url=sqlite_url) as run:
        publish({"n": -1})
        workers: list[Any] = [
            make.Process(target=publish_and_end, args=(sqlite_url, run.run_id, 50))
            for _ in range(2)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE_S)
        assert [worker.exitcode for worker in workers] == [0, 0]
    assert sorted(numbers(sqlite_url, run.run_id)) == sorted([-1, *range(50), *range(50)])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_process_pool_publishes_too(sqlite_url: str) -> None:
    with (
        start_run("w", url=sqlite_url) as run,
        ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool,
    ):
        calls = [pool.submit(publish_and_end, sqlite_url, run.run_id, 10) for _ in range(4)]
        for call in calls:
            call.result(PATIENCE_S)
    assert sorted(numbers(sqlite_url, run.run_id)) == sorted([*range(10)] * 4)


def test_the_stats_are_what_they_say(url: str) -> None:
    before = publisher_stats()
    with start_run("w", url=url):
        publish({})
        assert flush(PATIENCE_S)
    after = publisher_stats()
    assert after.stored - before.stored == 3
    assert msgspec.structs.replace(after, stored=before.stored) == before
