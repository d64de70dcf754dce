"""Runs of one's own: how they begin, end, are parked and taken up again."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextvars import copy_context
from typing import Any

import pytest

from embedded_logs import (
    PATIENCE_S,
    closed_publishers,
    info,
    kinds,
    records,
    refuses,
    url,
    wait_until,
)
from runstream import (
    InvalidInput,
    RunEnded,
    RunNotFound,
    attach,
    bind,
    connect,
    flush,
    publish,
    start_run,
)
from runstream.errors import LeaseLost, LogClosed, ProducerFenced

__all__ = ["closed_publishers", "url"]

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
        wait_until(lambda: refuses(zombie))
        with pytest.raises(ProducerFenced):
            zombie({"n": "later"})
        with pytest.raises((ProducerFenced, LeaseLost)):
            abandoned.close()
    numbers = [record.data["n"] for record in records(url, "r1") if record.kind == "event"]
    assert numbers == [0, 1, 2, 3]
