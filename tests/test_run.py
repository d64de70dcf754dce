"""Runs of one's own: how they begin, end, are parked, taken over and lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest

from runstream import (
    InvalidInput,
    LogUnavailable,
    Record,
    RunEnded,
    RunLost,
    RunNotFound,
    RunstreamError,
    attach,
    bind,
    connect,
    flush,
    process,
    publish,
    publisher_stats,
    start_run,
)
from runstream.errors import LeaseHeld, LeaseLost, LogClosed, ProducerFenced
from runstream.log import Lease, RunInfo
from runstream.logs.memory import MemoryLog

PATIENCE_S = 30.0


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


def records(url: str, run_id: str) -> list[Record]:
    with connect(url) as streams:
        return list(streams.subscribe(run_id, follow=False))


def kinds(url: str, run_id: str) -> list[str]:
    return [record.kind for record in records(url, run_id)]


def info(url: str, run_id: str) -> RunInfo:
    with connect(url) as streams:
        return streams.info(run_id)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        threading.Event().wait(0.005)


# --- how runs end --------------------------------------------------------------------------------


def test_a_run_that_goes_well_is_completed_with_its_result(url: str) -> None:
    with start_run("nightly", url=url) as run:
        publish({"n": 1})
        run.set_result({"rows": 3})
    got = records(url, run.run_id)
    assert [(record.seq, record.kind) for record in got] == [
        (1, "run.started"),
        (2, "event"),
        (3, "run.completed"),
    ]
    assert got[0].data == {"workflow": "nightly", "parent_run_id": None, "root_run_id": run.run_id}
    assert got[-1].data == {"result": {"rows": 3}}
    assert info(url, run.run_id).status == "completed"


async def test_the_async_form_does_the_same(url: str) -> None:
    async with start_run("nightly", url=url) as run:
        publish({"n": 1})
        run.set_result(7)
    async with connect(url) as streams:
        assert await streams.handler(run.run_id) == 7
        got = [record.kind async for record in streams.subscribe(run.run_id)]
    assert got == ["run.started", "event", "run.completed"]


@pytest.mark.parametrize(
    ("error", "kind", "data"),
    [
        (ValueError("no"), "run.failed", {"type": "ValueError", "message": "no"}),
        (SystemExit(3), "run.failed", {"type": "SystemExit", "message": "3"}),
        (SystemExit(0), "run.completed", None),
        (SystemExit(), "run.completed", None),
        (asyncio.CancelledError(), "run.cancelled", None),
        (KeyboardInterrupt(), "run.cancelled", None),
        (GeneratorExit(), "run.cancelled", None),
    ],
    ids=repr,
)
def test_what_leaves_the_block_decides_how_the_run_ends(
    url: str, error: BaseException, kind: str, data: Any
) -> None:
    with pytest.raises(type(error)) as left, start_run("nightly", url=url) as run:
        raise error
    assert left.value is error
    end = records(url, run.run_id)[-1]
    assert end.kind == kind
    if kind == "run.failed":
        assert end.data["exception"] == data
        assert end.data["elapsed_seconds"] >= 0


async def test_a_cancelled_task_ends_its_run_as_cancelled(url: str) -> None:
    entered = asyncio.Event()

    async def work() -> None:
        async with start_run("nightly", url=url, run_id="r1"):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.ensure_future(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with connect(url) as streams:
        got = [record.kind async for record in streams.subscribe("r1")]
    assert got == ["run.started", "run.cancelled"]


def test_a_result_is_what_it_was_when_it_was_set(url: str) -> None:
    rows: list[float] = [1]
    with start_run("nightly", url=url) as run:
        run.set_result(rows)
        rows.append(float("nan"))
    assert records(url, run.run_id)[-1].data == {"result": [1]}


def test_a_result_that_cannot_be_stored_is_refused_when_it_is_set(url: str) -> None:
    with start_run("nightly", url=url) as run, pytest.raises(InvalidInput):
        run.set_result({"loss": float("nan")})
    assert kinds(url, run.run_id)[-1] == "run.completed"


def test_an_exception_whose_message_is_huge_or_broken_still_ends_the_run(url: str) -> None:
    with pytest.raises(ValueError), start_run("nightly", url=url) as run:
        raise ValueError("\ud800" * 5_000_000)
    assert kinds(url, run.run_id) == ["run.started", "run.failed"]


@pytest.mark.allow_blocking  # these threads leave the interpreter to nobody
def test_threads_that_go_on_publishing_do_not_stop_the_run_from_ending(url: str) -> None:
    refused = threading.Event()

    def go_on() -> None:
        with contextlib.suppress(RunEnded):
            while True:
                publish({"n": 1})
        refused.set()

    for _ in range(5):
        refused.clear()
        with start_run("nightly", url=url, overflow="drop_oldest") as run:
            threads = [threading.Thread(target=bind(go_on)) for _ in range(3)]
            for thread in threads:
                thread.start()
        for thread in threads:
            thread.join(PATIENCE_S)
        assert refused.is_set()
        assert info(url, run.run_id).status == "completed"
        with connect(url) as streams:
            *_, last = streams.subscribe(run.run_id, last=1)
        assert last.kind == "run.completed"


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"workflow": ""}, {"workflow": "a\nb"}, {"run_id": "../up"}, {"parent": "a b"}, {"producer": "a\0"},
        {"lease": 0.0}, {"lease": -1.0}, {"lease": float("nan")}, {"grace": -1.0}, {"grace": float("inf")},
        {"overflow": "explode"}, {"batch_interval": -0.1}, {"batch_interval": 3600.0},
    ],
    ids=str,
)  # fmt: skip
def test_a_run_that_cannot_be_is_refused_before_anything_is_opened(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        start_run(options.pop("workflow", "w"), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"run_id": ""},
        {"step": ""},
        {"attempt": 2},
        {"step_run_id": "x"},
        {"step": "s", "attempt": 0},
        {"overflow": ""},
    ],
    ids=str,
)
def test_an_attachment_that_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        attach(options.pop("run_id", "r"), **options)


def test_a_url_that_cannot_be_is_refused_on_entering() -> None:
    with pytest.raises(InvalidInput, match="no log for"), start_run("w", url="gopher:x"):
        pass


def test_a_run_is_entered_once(url: str) -> None:
    run = start_run("w", url=url)
    with run, pytest.raises(InvalidInput, match="entered"), run:
        pass
    assert kinds(url, run.run_id) == ["run.started", "run.completed"]


def test_an_ended_run_cannot_be_started_or_attached_to_again(url: str) -> None:
    with start_run("w", url=url, run_id="r1"):
        pass
    with pytest.raises(RunEnded, match="another run_id"), start_run("w", url=url, run_id="r1"):
        pass
    with pytest.raises(RunEnded), attach("r1", url=url):
        pass


def test_there_is_nothing_to_attach_to_where_no_run_is(url: str) -> None:
    with pytest.raises(RunNotFound), attach("nowhere", url=url):
        pass


def test_a_run_may_be_entered_in_one_context_and_left_in_another(url: str) -> None:
    run = start_run("w", url=url)
    copy_context().run(run.__enter__)
    copy_context().run(run.__exit__, None, None, None)
    assert kinds(url, run.run_id) == ["run.started", "run.completed"]


# --- attaching -----------------------------------------------------------------------------------


def test_an_attachment_publishes_into_the_run_with_its_step(url: str) -> None:
    with start_run("w", url=url, run_id="r1"):
        publish({"n": 1})
    # (The other way round below; an ended run is closed.)
    with start_run("w", url=url, run_id="r2", parent=None):
        with attach("r2", url=url, step="train", attempt=2) as place:
            publish({"n": 2})
        publish({"n": 3})
    got = [record for record in records(url, "r2") if record.kind == "event"]
    assert [record.data["n"] for record in got] == [2, 3]
    assert (got[0].step, got[0].attempt, got[0].step_run_id) == ("train", 2, place.step_run_id)
    assert (got[1].step, got[1].attempt) == (None, None)


def test_leaving_an_attachment_waits_until_everything_is_stored(url: str) -> None:
    with start_run("w", url=url, run_id="r1"):
        before = publisher_stats().stored
        with attach("r1", url=url):
            for number in range(1000):
                publish({"n": number})
        assert publisher_stats().stored - before >= 1000


def test_who_publishes_after_the_attachment_was_left_hears_so(url: str) -> None:
    with start_run("w", url=url, run_id="r1"):
        with attach("r1", url=url):
            late = bind(publish)
        with pytest.raises(LogClosed, match="left"):
            late({"n": 1})


# --- children ------------------------------------------------------------------------------------


def test_a_run_started_in_a_run_is_its_child_and_ends_alone(url: str) -> None:
    with start_run("outer", url=url) as outer:
        with start_run("inner") as inner:
            publish({"n": 1})
        publish({"n": 2})
    got = [(record.run_id == inner.run_id, record.kind) for record in records(url, outer.run_id)]
    assert got == [
        (False, "run.started"),
        (True, "run.started"),
        (True, "event"),
        (True, "run.completed"),
        (False, "event"),
        (False, "run.completed"),
    ]
    assert info(url, inner.run_id).root_run_id == outer.run_id
    assert kinds(url, inner.run_id) == ["run.started", "event", "run.completed"]


def test_a_child_that_fails_does_not_end_its_parent(url: str) -> None:
    with start_run("outer", url=url) as outer:
        with pytest.raises(ValueError), start_run("inner") as inner:
            raise ValueError("no")
        publish({"n": 1})
    assert info(url, inner.run_id).status == "failed"
    assert info(url, outer.run_id).status == "completed"


def test_nothing_follows_a_childs_end(url: str) -> None:
    with start_run("outer", url=url):
        with start_run("inner") as inner:
            late = bind(publish)
        with pytest.raises(RunEnded, match=inner.run_id):
            late({"n": 1})
        publish({"n": 2})


def test_children_of_children_stay_in_the_roots_stream(url: str) -> None:
    with start_run("a", url=url) as a, start_run("b") as b, start_run("c") as c:
        publish({})
    assert (c.parent_run_id, b.parent_run_id) == (b.run_id, a.run_id)
    assert kinds(url, a.run_id) == [*["run.started"] * 3, "event", *["run.completed"] * 3]
    assert info(url, c.run_id).root_run_id == a.run_id


def test_a_child_of_its_own_wishes_has_a_producer_and_lease_of_its_own(url: str) -> None:
    with (
        start_run("outer", url=url) as outer,
        start_run("inner", producer="p1", lease=5.0) as inner,
    ):
        publish({"n": 1})
        lease = info(url, inner.run_id).lease
        assert lease is not None
        assert (lease.owner, lease.lease_s) == ("p1", 5.0)
    assert info(url, inner.run_id).root_run_id == outer.run_id
    assert kinds(url, inner.run_id) == ["run.started", "event", "run.completed"]
    assert kinds(url, outer.run_id)[-1] == "run.completed"


def test_without_a_parent_a_run_is_its_own_root(url: str) -> None:
    with start_run("outer", url=url) as outer, start_run("inner", url=url, parent=None) as inner:
        publish({"n": 1})
    assert inner.parent_run_id is None
    assert info(url, inner.run_id).root_run_id == inner.run_id
    assert kinds(url, outer.run_id) == ["run.started", "run.completed"]


def test_a_child_may_name_its_parent_from_anywhere(url: str) -> None:
    with start_run("outer", url=url, run_id="r1"):
        worker = threading.Thread(target=_child_of_r1, args=(url,))
        worker.start()
        worker.join(PATIENCE_S)
    assert kinds(url, "r1") == ["run.started", "run.started", "run.completed", "run.completed"]


def _child_of_r1(url: str) -> None:
    with start_run("inner", url=url, parent="r1"):
        pass


@pytest.mark.parametrize("taken", ["outer", "other"])
def test_a_child_cannot_take_the_id_of_a_run_that_is_no_child(url: str, taken: str) -> None:
    with (
        start_run("w", url=url, run_id="other", parent=None),
        start_run("w", url=url, run_id="outer", parent=None),
    ):
        with pytest.raises(InvalidInput, match="no child"), start_run("inner", run_id=taken):
            pass
        publish({})
    assert info(url, "outer").status == info(url, "other").status == "completed"


def test_the_same_log_spelt_differently_is_the_same_parent(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:"))
    monkeypatch.chdir(path.parent)
    outer = start_run("outer", url=f"sqlite://{path}")
    with outer, start_run("inner", url=f"sqlite:{path.name}") as inner:
        pass
    assert inner.parent_run_id == outer.run_id


# --- parking -------------------------------------------------------------------------------------


def test_a_parked_run_waits_and_is_taken_up_again(url: str) -> None:
    with start_run("w", url=url, run_id="r1") as run:
        publish({"n": 1})
        run.park()
    parked = info(url, "r1")
    assert (parked.status, parked.lease) == ("waiting", None)
    with start_run("w", url=url, run_id="r1") as again:
        assert again.resumed
        publish({"n": 2})
    assert kinds(url, "r1") == [
        "run.started",
        "event",
        "run.waiting",
        "run.resumed",
        "event",
        "run.completed",
    ]


def test_a_run_that_failed_while_it_meant_to_park_has_failed(url: str) -> None:
    with pytest.raises(ValueError), start_run("w", url=url, run_id="r1") as run:
        run.park()
        raise ValueError("no")
    assert info(url, "r1").status == "failed"


def test_nobody_publishes_into_a_run_that_this_process_has_parked(url: str) -> None:
    with start_run("w", url=url, run_id="r1") as run:
        late = bind(publish)
        run.park()
    with pytest.raises(LogClosed):
        late({"n": 1})
    assert kinds(url, "r1") == ["run.started", "run.waiting"]


# --- stable producers ----------------------------------------------------------------------------


def test_a_stable_producer_goes_on_with_its_numbers_and_fences_the_one_before(url: str) -> None:
    with contextlib.ExitStack() as abandoned:
        first = start_run("w", url=url, run_id="r1", producer="p1", parent=None)
        abandoned.enter_context(first)
        for number in range(3):
            publish({"n": number})
        assert flush(PATIENCE_S)
        zombie = bind(publish)
        # (The same id: what a restarted process does whose old self still hangs about.)
        with attach("r1", url=url, producer="p1") as second:
            assert second.last_number == 4
            zombie({"n": "late"})
            publish({"n": 3})
        wait_until(lambda: _refuses(zombie))
        with pytest.raises(ProducerFenced):
            zombie({"n": "later"})
        with pytest.raises((ProducerFenced, LeaseLost)):
            abandoned.close()
    numbers = [record.data["n"] for record in records(url, "r1") if record.kind == "event"]
    assert numbers == [0, 1, 2, 3]


def _refuses(publish: Callable[[Any], None]) -> bool:
    try:
        publish({"n": "late"})
    except RunstreamError:
        return True
    return False


# --- leases --------------------------------------------------------------------------------------

HOLDER = """
import sys, threading
from runstream import publish, start_run, flush
url, lease, grace = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
with start_run("w", url=url, run_id="r1", lease=lease, grace=grace):
    publish({"n": 1})
    flush(30)
    print("running", flush=True)
    threading.Event().wait()
"""


@contextlib.contextmanager
def holder(url: str, lease: float, grace: float = 0.0) -> Generator[subprocess.Popen[str]]:
    """Another process that runs the run r1, and goes on until it is killed."""
    command = [sys.executable, "-c", HOLDER, url, str(lease), str(grace)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as there:
        try:
            assert there.stdout is not None
            assert there.stdout.readline() == "running\n"
            yield there
        finally:
            there.kill()


def killed(there: subprocess.Popen[str]) -> None:
    os.kill(there.pid, signal.SIGKILL)
    there.wait(PATIENCE_S)


def test_a_run_whose_owner_lives_is_not_taken_over(sqlite_url: str) -> None:
    with holder(sqlite_url, lease=2.0):
        with pytest.raises(LeaseHeld), start_run("w", url=sqlite_url, run_id="r1"):
            pass
        assert info(sqlite_url, "r1").status == "running"


def test_a_run_that_this_process_runs_is_not_taken_over(url: str) -> None:
    with start_run("w", url=url, run_id="r1", lease=600.0):
        begun = time.monotonic()
        with pytest.raises(LeaseHeld, match="this very process"):
            start_run("w", url=url, run_id="r1", parent=None).__enter__()
        # At once: watching the counter would take a third of the lease.
        assert time.monotonic() - begun < 100


def test_a_run_whose_owner_was_killed_is_resumed_within_its_grace(sqlite_url: str) -> None:
    with holder(sqlite_url, lease=0.3, grace=600.0) as there:
        killed(there)
    with start_run("w", url=sqlite_url, run_id="r1") as run:
        assert run.resumed
        publish({"n": 2})
    assert kinds(sqlite_url, "r1") == [
        "run.started",
        "event",
        "run.stalled",
        "run.resumed",
        "event",
        "run.completed",
    ]


def test_a_run_whose_owner_was_killed_is_lost_without_a_grace(sqlite_url: str) -> None:
    with holder(sqlite_url, lease=0.3) as there:
        killed(there)
    with pytest.raises(RunEnded), start_run("w", url=sqlite_url, run_id="r1"):
        pass
    assert kinds(sqlite_url, "r1") == ["run.started", "event", "run.lost"]


@pytest.mark.parametrize("grace", [0.0, 0.3])
def test_no_follower_hangs_when_the_owner_is_killed(sqlite_url: str, grace: float) -> None:
    async def follow() -> list[list[str]]:
        async with connect(sqlite_url) as streams:
            following = [asyncio.ensure_future(_kinds(streams, "r1")) for _ in range(3)]
            await asyncio.to_thread(killed, there)
            got = await asyncio.wait_for(asyncio.gather(*following), PATIENCE_S)
            with pytest.raises(RunLost):
                await streams.handler("r1")
            return got

    with holder(sqlite_url, lease=0.3, grace=grace) as there:
        got = asyncio.run(follow())
    stalled = ["run.stalled"] if grace else []
    assert got == [["run.started", "event", *stalled, "run.lost"]] * 3


async def _kinds(streams: Any, run_id: str) -> list[str]:
    return [record.kind async for record in streams.subscribe(run_id)]


def test_a_process_that_lost_its_run_hears_so_and_ends_nothing(url: str) -> None:
    gone = pytest.raises((LeaseLost, ProducerFenced, RunEnded))
    with gone, start_run("w", url=url, run_id="r1", lease=0.2):
        lost(url, "r1")
        wait_until(lambda: _refuses(publish))
    assert kinds(url, "r1")[-1] == "run.lost"


def test_a_body_that_fails_after_its_run_was_lost_keeps_its_own_error(url: str) -> None:
    with pytest.raises(ZeroDivisionError), start_run("w", url=url, run_id="r1", lease=0.2):
        lost(url, "r1")
        wait_until(lambda: _refuses(publish))
        raise ZeroDivisionError


def lost(url: str, run_id: str) -> None:
    """Expire the lease, as an observer does that has seen it lapse (this process was stopped, say)."""
    log = process.acquire_log(url)

    async def expire() -> None:
        lease: Lease | None = (await log.info(run_id)).lease
        while lease is not None:
            left = await log.expire(run_id, lease=lease)
            if left.has_ended:
                break
            lease = (await log.info(run_id)).lease
        await process.release_log(url, log)

    publisher = process.publisher(url)
    publisher.portal.call(expire())


def test_a_clock_that_steps_back_ends_no_run(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with start_run("w", url=url, run_id="r1", lease=0.3):
        publish({"n": 1})
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() - 10**15)
        before = info(url, "r1").lease
        assert before is not None
        wait_until(lambda: (info(url, "r1").lease or before).counter >= before.counter + 3)
        publish({"n": 2})
    got = records(url, "r1")
    assert [record.kind for record in got] == ["run.started", "event", "event", "run.completed"]
    assert [record.seq for record in got] == [1, 2, 3, 4]


# --- a log that fails at the end -----------------------------------------------------------------


@pytest.fixture
def failing_log(monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[[bool], None]]:
    """The memory log of this process; calling this has it fail, or work again."""
    failing = False
    append = MemoryLog.append

    async def append_or_fail(log: MemoryLog, *args: Any, **options: Any) -> Any:
        if failing:
            raise LogUnavailable("the disk is full")
        return await append(log, *args, **options)

    def fail(now: bool) -> None:
        nonlocal failing
        failing = now

    monkeypatch.setattr(MemoryLog, "append", append_or_fail)
    monkeypatch.setenv("RUNSTREAM_END_TIMEOUT_S", "0.1")
    yield fail
    fail(False)
    process.close_publishers()


def test_an_end_that_cannot_be_stored_is_an_error(failing_log: Callable[[bool], None]) -> None:
    with pytest.raises(LogUnavailable, match="could not be stored"), start_run("w", url="memory:"):
        failing_log(True)


async def test_an_end_that_cannot_be_stored_is_an_error_in_async_code_too(
    failing_log: Callable[[bool], None],
) -> None:
    with pytest.raises(LogUnavailable, match="could not be stored"):
        async with start_run("w", url="memory:"):
            failing_log(True)


def test_an_end_that_cannot_be_stored_never_hides_the_bodys_own_error(
    failing_log: Callable[[bool], None],
) -> None:
    with pytest.raises(ZeroDivisionError), start_run("w", url="memory:"):
        failing_log(True)
        raise ZeroDivisionError


def test_an_end_that_could_not_be_stored_in_time_is_stored_when_the_log_is_back(
    failing_log: Callable[[bool], None],
) -> None:
    with connect("memory:") as streams:
        with pytest.raises(LogUnavailable), start_run("w", url="memory:") as run:
            failing_log(True)
        assert streams.info(run.run_id).status == "running"
        failing_log(False)
        wait_until(lambda: streams.info(run.run_id).status == "completed")


# --- cancelling ----------------------------------------------------------------------------------


async def test_cancelling_at_any_point_of_entering_leaves_nothing_running(url: str) -> None:
    async with connect(url) as streams:
        for steps in range(12):
            run = start_run("w", url=url, parent=None)
            task = asyncio.ensure_future(run.__aenter__())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                await asyncio.wait_for(_ended_or_never_there(streams, run.run_id), PATIENCE_S)
            else:
                await run.__aexit__(None, None, None)
        publisher = process.publisher(url)
        await asyncio.to_thread(wait_until, lambda: not publisher.outboxes)


async def _ended_or_never_there(streams: Any, run_id: str) -> None:
    """The cancelled entering is undone in the background: wait until all of that is over."""
    publisher = process.publisher(streams_url(streams))
    while any(outbox.run_id == run_id for outbox in publisher.outboxes):
        await asyncio.sleep(0.001)
    try:
        status = (await streams.info(run_id)).status
    except RunNotFound:
        return
    while status == "running":
        await asyncio.sleep(0.001)
        status = (await streams.info(run_id)).status
    assert status == "cancelled"


def streams_url(streams: Any) -> str:
    return next(url for url, (log, _) in process.this_process().logs.items() if log is streams.log)


async def test_cancelling_the_leaving_still_ends_the_run(url: str) -> None:
    async with connect(url) as streams:
        for steps in range(6):
            run = start_run("w", url=url, parent=None)
            await run.__aenter__()
            publish({"n": 1})
            task = asyncio.ensure_future(run.__aexit__(None, None, None))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if not steps:
                # It had not begun to leave: nothing was ended, and it may be left again.
                await run.__aexit__(None, None, None)
            got = await asyncio.wait_for(_kinds(streams, run.run_id), PATIENCE_S)
            assert got == ["run.started", "event", "run.completed"]


async def test_a_cancelled_leaving_of_a_parked_run_gives_up_its_lease(url: str) -> None:
    async with connect(url) as streams:
        run = start_run("w", url=url, run_id="r1")
        await run.__aenter__()
        run.park()
        task = asyncio.ensure_future(run.__aexit__(None, None, None))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        with connect(url) as watching:
            await asyncio.to_thread(wait_until, lambda: watching.info("r1").lease is None)
        assert (await streams.info("r1")).status == "waiting"


def test_a_run_in_a_process_that_closed_its_publishers_says_so(url: str) -> None:
    with pytest.raises(LogClosed), start_run("w", url=url):
        process.close_publishers()
        with pytest.raises(LogClosed):
            publish({})
    with pytest.raises(ZeroDivisionError), start_run("w", url=url):
        process.close_publishers()
        raise ZeroDivisionError
