"""Connecting, listing runs, and the same verbs for plain code."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from runstream import Event, Task, connect, process, publish, start_run
from runstream.errors import InvalidURL, LogClosed, RunFailed, RunNotFound
from runstream.log import LIST_LIMIT_MAX


class Progress(Event, kind="plain_progress"):
    done: int


@pytest.fixture
def url(sqlite_url: str) -> Iterator[str]:
    before = set(threading.enumerate())
    yield sqlite_url
    process.close_publishers()
    left = set(threading.enumerate()) - before
    assert not [one.name for one in left if one.name.startswith("runstream")]


def runs(url: str, count: int, workflow: str = "nightly") -> list[str]:
    made: list[str] = []
    for number in range(count):
        with start_run(workflow, url=url) as run:
            publish(Progress(done=number))
        made.append(run.run_id)
    return made


@pytest.mark.parametrize("bad", ["nonsense", "kafka://somewhere", "sqlite:", "sqlite:x?y=1"])
def test_a_url_that_names_no_log_says_what_would(bad: str) -> None:
    with pytest.raises(InvalidURL), connect(bad):
        pass


def test_following_from_plain_code(url: str) -> None:
    (run_id,) = runs(url, 1)

    with connect(url) as streams:
        assert [record.kind for record in streams.subscribe(run_id)] == [
            "run.started",
            "plain_progress",
            "run.completed",
        ]
        with streams.subscribe(run_id, kinds="plain_progress") as records:
            assert next(records).data == {"done": 0}
        assert list(records) == []


def test_plain_code_follows_while_a_thread_publishes(url: str) -> None:
    entered = threading.Event()
    names: list[str] = []

    def work() -> None:
        with start_run("nightly", url=url) as run:
            names.append(run.run_id)
            entered.set()
            for number in range(2000):
                publish(Progress(done=number))

    worker = threading.Thread(target=work)
    worker.start()
    assert entered.wait(60)
    with connect(url) as streams:
        seen = [
            r.data["done"]
            for r in streams.subscribe(names[0], kinds="plain_progress")
            if r.data.get("done") is not None
        ]
    worker.join(60)

    assert seen == list(range(2000))


def test_a_plain_handler(url: str) -> None:
    with start_run("nightly", url=url) as run:
        with Task("count", state={"n": 0}) as task:
            task.update_state({"n": 1})
        run.set_result(5)

    with connect(url) as streams:
        handler = streams.handler(run.run_id)
        assert handler.result() == 5
        assert handler.is_done()
        assert handler.status == "completed"
        assert [state["n"] for state in handler.tasks("count")] == [0, 1, 1]
        assert [event.event_type for event in handler.stream_events()] == ["run.completed"]
        assert handler.info().last_seq == 5
        assert handler.cursor().endswith(".5")


def test_a_plain_handler_raises_how_the_run_ended(url: str) -> None:
    with pytest.raises(ZeroDivisionError), start_run("nightly", url=url) as run:
        _ = 1 / 0

    with connect(url) as streams:
        with pytest.raises(RunFailed, match="ZeroDivisionError"):
            streams.handler(run.run_id).result()
        with pytest.raises(RunNotFound):
            streams.info("nobody")


def test_runs_are_listed_newest_first_and_filtered(url: str) -> None:
    nightly = runs(url, 3)
    (other,) = runs(url, 1, "other")

    with connect(url) as streams:
        assert [info.run_id for info in streams.list_runs()] == [other, *reversed(nightly)]
        assert [info.run_id for info in streams.list_runs(workflow="other")] == [other]
        assert [info.run_id for info in streams.list_runs(limit=2)] == [other, nightly[2]]
        assert streams.list_runs(status="failed") == []
        assert streams.list_runs(limit=0) == []


async def test_a_list_longer_than_a_page_comes_whole(url: str) -> None:
    async with connect("memory:long-list") as streams:
        for number in range(LIST_LIMIT_MAX + 5):
            await streams.log.open(f"run-{number}", producer=None, workflow="many")
        assert len(await streams.list_runs()) == LIST_LIMIT_MAX + 5
        assert len(await streams.list_runs(limit=LIST_LIMIT_MAX + 2)) == LIST_LIMIT_MAX + 2


def test_a_connection_can_be_used_once_at_a_time(url: str) -> None:
    connection = connect(url)
    with connection as streams:
        assert streams.list_runs() == []
    with pytest.raises(LogClosed):
        connection.__exit__(None, None, None)
    with connection as streams:
        assert streams.list_runs() == []
