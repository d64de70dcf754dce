"""Publishing from other processes: named by the environment, forked, or spawned."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from typing import Any

import pytest

from embedded_logs import PATIENCE_S, closed_publishers
from published_records import in_step, numbers, published
from publishing_workers import publish_and_end, publish_numbers
from runstream import (
    LogUnavailable,
    bind,
    connect,
    flush,
    publish,
    run_environment,
    start_run,
)

__all__ = ["closed_publishers"]

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


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
