"""Threads for plain steps."""

from __future__ import annotations

import threading
import time

from runstream.worker_threads import WorkerThreads


def test_as_many_run_as_are_asked_for() -> None:
    threads = WorkerThreads()
    together = threading.Barrier(5, timeout=30)

    def meet() -> None:
        together.wait()

    for _ in range(4):
        threads.run(meet)
    together.wait()
    threads.end_idle()


def test_a_thread_is_used_again_and_ends_when_it_is_told() -> None:
    threads = WorkerThreads()
    seen: list[threading.Thread] = []

    def work() -> None:
        seen.append(threading.current_thread())

    for number in range(1, 4):
        threads.run(work)
        deadline = time.monotonic() + 30
        while len(seen) < number or not threads.idle_count:
            assert time.monotonic() < deadline
    assert len(set(seen)) == 1
    threads.end_idle()
    assert not seen[0].is_alive()


def test_one_that_is_at_work_when_the_others_end_ends_after_it() -> None:
    release = threading.Event()
    seen: list[threading.Thread] = []
    threads = WorkerThreads()

    def work() -> None:
        seen.append(threading.current_thread())
        release.wait(30)

    threads.run(work)
    threads.end_idle()
    release.set()
    while not seen:
        pass
    seen[0].join(30)
    assert not seen[0].is_alive()
    assert seen[0].daemon
