"""Publishing from anywhere inside a run: what a record says, and who it belongs to."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from embedded_logs import PATIENCE_S, closed_publishers, url
from published_records import in_step, numbers, published
from runstream import (
    Event,
    InvalidInput,
    RunEnded,
    bind,
    connect,
    flush,
    publish,
    publisher_stats,
    start_run,
)
from runstream.context import current_scope

__all__ = ["closed_publishers", "url"]


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


def test_the_stats_are_what_they_say(url: str) -> None:
    before = publisher_stats()
    with start_run("w", url=url):
        publish({})
        assert flush(PATIENCE_S)
    after = publisher_stats()
    assert after.stored - before.stored == 3
    assert msgspec.structs.replace(after, stored=before.stored) == before
