"""The guards against blocked event loops and hanging tests, tried on tests that should and shouldn't fail."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).with_name("conftest.py")


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    # Of all plugins that are installed it needs one, and others take seconds to load.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST.read_text())
    pytester.makeini(f"""
        [pytest]
        addopts = -p pytest_asyncio.plugin
        pythonpath = {CONFTEST.parent}
        asyncio_mode = auto
        asyncio_default_fixture_loop_scope = function
        markers = allow_blocking
    """)
    return pytester


def test_a_test_that_blocks_the_loop_fails_and_names_the_culprit(run: pytest.Pytester) -> None:
    run.makepyfile("""
        import asyncio, time

        async def test_blocks():
            time.sleep(0.4)

        async def test_blocks_in_another_task():
            async def sluggish():
                time.sleep(0.4)
            await asyncio.create_task(sluggish())

        def test_blocks_its_own_loop():
            async def main():
                asyncio.get_running_loop().call_soon(time.sleep, 0.4)
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            asyncio.run(main())

        async def test_computes():
            start = time.thread_time()
            while time.thread_time() - start < 0.15:
                pass
    """)
    result = run.runpytest_subprocess()
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*event loop was blocked for * ms in *sluggish*"])


def test_honest_tests_pass(run: pytest.Pytester) -> None:
    run.makepyfile("""
        import asyncio, gc, time
        import pytest

        async def test_waits_without_blocking():
            await asyncio.sleep(0.08)

        async def test_blocks_a_thread():
            await asyncio.to_thread(time.sleep, 0.08)

        def test_blocks_without_a_loop():
            time.sleep(0.08)

        @pytest.mark.allow_blocking
        async def test_blocks_on_purpose():
            time.sleep(0.08)

        async def test_is_stopped_by_the_garbage_collector():
            def slow_collection(phase, info):
                if phase == "start":
                    time.sleep(0.08)
            gc.callbacks.append(slow_collection)
            gc.collect()
            gc.callbacks.remove(slow_collection)
    """)
    run.runpytest_subprocess().assert_outcomes(passed=5)


def test_the_loop_is_left_as_it_was(run: pytest.Pytester) -> None:
    run.makepyfile("""
        import asyncio, gc
        import pytest

        PLAIN = asyncio.Handle._run

        @pytest.fixture(autouse=True)
        def plain_before_and_after():
            assert asyncio.Handle._run is PLAIN
            callbacks = list(gc.callbacks)
            yield
            assert asyncio.Handle._run is PLAIN
            assert gc.callbacks == callbacks

        async def test_watched():
            assert asyncio.Handle._run is not PLAIN
    """)
    run.runpytest_subprocess().assert_outcomes(passed=1)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux binds to one CPU")
def test_a_thread_that_begins_when_its_test_has_ended_leaves_nothing_open(
    run: pytest.Pytester,
) -> None:
    run.makepyfile("""
        import asyncio, gc, threading

        watched = []

        async def test_one():
            watched.append(asyncio.Handle._run)

        def test_another():
            loop = asyncio.new_event_loop()
            handle = asyncio.Handle(print, (), loop)
            thread = threading.Thread(target=watched.pop(), args=(handle,))
            thread.start()
            thread.join()
            loop.close()
            gc.collect()
    """)
    run.runpytest("-W", "error").assert_outcomes(passed=2)


def test_time_without_a_cpu_does_not_count(run: pytest.Pytester) -> None:
    # Six spinning processes on one CPU leave this one a small share of it.
    run.makepyfile("""
        import os, subprocess, sys, time
        import pytest

        @pytest.fixture
        def starved():
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            spin = [sys.executable, "-c", "print(flush=True)\\nwhile True: pass"]
            spinners = [subprocess.Popen(spin, stdout=subprocess.PIPE) for _ in range(6)]
            for spinner in spinners:
                spinner.stdout.readline()
            yield
            for spinner in spinners:
                spinner.kill()
                spinner.communicate()

        async def test_starved(starved):
            start, cpu_start = time.perf_counter(), time.thread_time()
            while time.thread_time() - cpu_start < 0.03:
                pass
            assert time.perf_counter() - start > 0.06, "the machine did not starve this test"
    """)
    run.runpytest_subprocess().assert_outcomes(passed=1)


def test_waiting_for_the_interpreters_lock_does_not_count(run: pytest.Pytester) -> None:
    run.makepyfile("""
        import os, threading
        import pytest

        @pytest.fixture
        def contended():
            done = threading.Event()
            def compute():
                while not done.is_set():
                    pass
            threads = [threading.Thread(target=compute) for _ in range(2)]
            for thread in threads:
                thread.start()
            yield
            done.set()
            for thread in threads:
                thread.join()

        async def test_contended(contended):
            for _ in range(100):
                os.stat("/")  # lets go of the lock, and wants it again: five milliseconds each
    """)
    run.runpytest_subprocess().assert_outcomes(passed=1)


def test_waiting_for_another_threads_new_thread_to_get_a_cpu_does_not_count(
    run: pytest.Pytester,
) -> None:
    run.makepyfile("""
        import threading, time

        async def test_starts_elsewhere():
            lock, begun = threading.Lock(), threading.Event()
            new = threading.Thread(target=print)

            def get_a_cpu_late():
                begun.set()
                time.sleep(0.5)

            def start():
                with lock:  # as an executor does
                    new.start()

            new._started.wait = get_a_cpu_late
            another = threading.Thread(target=start)
            another.start()
            begun.wait()
            with lock:
                pass
            another.join()
            new.join()
    """)
    run.runpytest_subprocess().assert_outcomes(passed=1)


def test_waiting_for_a_new_process_to_begin_does_not_count(run: pytest.Pytester) -> None:
    run.makepyfile("""
        import subprocess, sys, time
        import pytest

        @pytest.fixture
        def started():
            processes = []
            yield processes
            for process in processes:
                process.wait()

        async def test_starts_a_process(started):
            slow = [sys.executable, "-c", ""]
            started.append(subprocess.Popen(slow, preexec_fn=lambda: time.sleep(0.4)))
    """)
    run.runpytest_subprocess().assert_outcomes(passed=1)


def test_of_a_test_that_takes_long_it_is_told_what_each_task_waits_for(
    run: pytest.Pytester,
) -> None:
    text = CONFTEST.read_text()
    run.makeconftest(text.replace("HANG_TOLD_S = 40.0", "HANG_TOLD_S = 1.0"))
    run.makepyfile("""
        import asyncio, contextlib, io

        async def waits_for_ever():
            await asyncio.Event().wait()

        async def hangs():
            await waits_for_ever()

        async def test_hangs():
            hung, told = asyncio.create_task(hangs()), io.StringIO()
            async with asyncio.timeout(60):
                with contextlib.redirect_stderr(told):
                    while "await waits_for_ever()" not in told.getvalue():
                        await asyncio.sleep(0.01)
            assert "in waits_for_ever" in told.getvalue()
            hung.cancel()
    """)
    run.runpytest().assert_outcomes(passed=1)
