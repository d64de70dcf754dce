"""Fixtures for every test, and the guard that no test may block an event loop."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from server_process import server, shared_server
from services.log_engine import engine, engine_url
from services.nats import nats_cluster, nats_cluster_of_session, nats_server, nats_url
from services.postgres import postgres_cluster, postgres_server, postgres_url
from services.redis import redis_cluster, redis_server, redis_url
from task_stacks import task_stacks

# Our own server, and the engines of the logs: a fixture is found by every test once it is imported here.
__all__ = [
    "engine",
    "engine_url",
    "nats_cluster",
    "nats_cluster_of_session",
    "nats_server",
    "nats_url",
    "postgres_cluster",
    "postgres_server",
    "postgres_url",
    "redis_cluster",
    "redis_server",
    "redis_url",
    "server",
    "shared_server",
]

# At 20 frames a second a pause is seen; everything here that may take longer belongs in a thread.
LOOP_BLOCKED_S_MAX = 0.05
# A wait takes as long on every machine; a computation takes twice as long where neighbours share the CPU.
COMPUTING_COUNTS = 0.5
# A test that takes so long most likely hangs. The guards of single tests come later, and the one of all
# tests (faulthandler_timeout) much later.
HANG_TOLD_S = 40.0
# The suite's largest files take some hundred megabytes at a time.
MEMORY_FREE_BYTES = 4 * 1024**3


class _Files:
    """Files that are closed together, once and for all. Safe for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: list[FileIO] | None = []

    def open(self, path: Path) -> FileIO | None:
        """None if there is no such file, or all have been closed: a thread may begin at that moment."""
        with self._lock:
            if self._open is None or not path.exists():
                return None
            file = FileIO(path)
            self._open.append(file)
            return file

    def close(self) -> None:
        with self._lock:
            for file in self._open or ():
                file.close()
            self._open = None


class _CpuWait(threading.local):
    """How long this thread has been ready to run and without a CPU (Linux counts it)."""

    def __init__(self, files: _Files) -> None:
        self._file = files.open(Path(f"/proc/self/task/{threading.get_native_id()}/schedstat"))

    def read(self) -> bytes:
        """The raw line: it is read before every callback, and parsed only after a slow one."""
        try:
            return os.pread(self._file.fileno(), 64, 0) if self._file else b"0 0 0"
        except (
            OSError,
            ValueError,
        ):  # a thread that outlives its test: nobody reads the file any more
            return b"0 0 0"


class _Heart(threading.Thread):
    """Counts the time in which a thread of this process could run when it wanted to.

    A loop that waits for the interpreter's lock, while the thread that holds it gets no CPU, is not
    blocked by its callback: there the heart stands still too.
    """

    BEAT_S = 0.005

    def __init__(self) -> None:
        super().__init__(name="heart of the loop guard", daemon=True)
        self.beaten_s = 0.0

    def run(self) -> None:
        last = time.perf_counter()
        while True:
            time.sleep(self.BEAT_S)
            now = time.perf_counter()
            self.beaten_s += min(now - last, 2 * self.BEAT_S)
            last = now


class _Starts:
    """When threads of this process have waited for a thread or a process that they started to get a CPU: only
    then does a start return. An executor's lock is held meanwhile, for which others wait too.

    Safe for any thread, and without a lock: a process that is forked meanwhile would find it taken.
    """

    def __init__(self) -> None:
        self._times: list[list[float]] = []

    @contextmanager
    def timed(self) -> Generator[None]:
        times = [time.perf_counter(), math.inf]
        self._times.append(times)
        try:
            yield
        finally:
            times[1] = time.perf_counter()

    def within_s(self, start: float, end: float) -> float:
        """For how much of that time any start was under way."""
        found_s = 0.0
        for times in sorted(self._times.copy()):
            begun, over = max(times[0], start), min(times[1], end)
            if begun < over:
                found_s += over - begun
                start = over
        return found_s


@cache
def _heart() -> _Heart:
    heart = _Heart()
    heart.start()
    return heart


def _queued_s(before: bytes, after: bytes) -> float:
    # The fields are: ns on a CPU, ns waiting for one, turns taken.
    return max(0, int(after.split()[1]) - int(before.split()[1])) / 1e9


def _locked_out_s(before: bytes, after: bytes) -> float:
    """How long the thread may have waited for the interpreter's lock: whoever does takes a turn on a CPU
    each time that the switch interval is over, only to see that another one has it.
    """
    return max(0, int(after.split()[2]) - int(before.split()[2])) * sys.getswitchinterval()


@contextmanager
def watch_event_loops() -> Generator[list[str]]:
    """Collect one line for each callback that held any event loop of this process for too long.

    Time spent waiting for a CPU or the interpreter's lock, for the first step of a new thread or process, or
    stopped by the garbage collector, is not the callback's.
    """
    heart, starts = _heart(), _Starts()
    blocked: list[str] = []
    paused_s = collection_started_s = 0.0

    def on_collection(phase: str, _info: dict[str, int]) -> None:
        nonlocal paused_s, collection_started_s
        if phase == "start":
            collection_started_s = time.perf_counter()
        else:
            paused_s += time.perf_counter() - collection_started_s

    start_thread = threading.Thread.start

    def start_timed(thread: threading.Thread) -> None:
        with starts.timed():
            start_thread(thread)

    start_process: Any = vars(subprocess.Popen)["_execute_child"]

    def start_process_timed(*args: Any) -> None:
        with starts.timed():
            start_process(*args)

    run_handle: Any = vars(asyncio.Handle)["_run"]

    def run_watched(handle: asyncio.Handle) -> None:
        # A task's own name and place say more than the handle's, which it no longer has afterwards.
        owner = getattr(getattr(handle, "_callback", None), "__self__", None)
        before, paused_before_s, beaten_s = cpu_wait.read(), paused_s, heart.beaten_s
        worked_s, start = time.thread_time(), time.perf_counter()
        run_handle(handle)
        held_s = took_s = time.perf_counter() - start
        if held_s > LOOP_BLOCKED_S_MAX:
            collected_s = paused_s - paused_before_s
            worked_s = max(0, time.thread_time() - worked_s - collected_s)
            after = cpu_wait.read()
            held_s -= _queued_s(before, after) + collected_s
            held_s -= starts.within_s(start, start + took_s)
            # It waited itself only as long as others could run meanwhile.
            waited_s = held_s - worked_s - _locked_out_s(before, after)
            waited_s = max(0, min(waited_s, heart.beaten_s - beaten_s))
            held_s = waited_s + worked_s * COMPUTING_COUNTS
        if held_s > LOOP_BLOCKED_S_MAX:
            blocked.append(f"{held_s * 1000:.0f} ms in {owner or handle!r}")

    with ExitStack() as ending, pytest.MonkeyPatch.context() as patch:
        files = _Files()
        ending.callback(files.close)
        cpu_wait = _CpuWait(files)
        patch.setattr(asyncio.Handle, "_run", run_watched)
        patch.setattr(threading.Thread, "start", start_timed)
        patch.setattr(subprocess.Popen, "_execute_child", start_process_timed)
        ending.callback(gc.callbacks.remove, on_collection)
        gc.callbacks.append(on_collection)
        yield blocked


def pytest_configure(config: pytest.Config) -> None:
    """Undo what surroundings do to the processes that the tests start by the hundred."""
    if (
        config.getoption("markexpr") == "not soak"
    ):  # what runs for hours may write more than memory has
        _keep_files_in_memory()
    # Containers often forbid compiled files; then each process would compile the whole package again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # A shell that starts us in the background has us ignore Ctrl-C, and our children would do the same.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _keep_files_in_memory() -> None:
    """Have temporary files where no disk is waited for, if there is such a place, and room in it.

    Tests kill processes, never the machine: what was written is there all the same.
    """
    memory = Path("/dev/shm")  # Linux's
    if "TMPDIR" in os.environ or not os.access(memory, os.W_OK):
        return
    found = os.statvfs(memory)
    if found.f_bavail * found.f_frsize >= MEMORY_FREE_BYTES and not found.f_flag & os.ST_NOEXEC:
        os.environ["TMPDIR"] = str(memory)
        tempfile.tempdir = None


@contextmanager
def _hangs_told(config: pytest.Config) -> Generator[None]:
    """Of a test that hangs, tell what each of its tasks waits for: with its failure, if its own guard ends
    it, and else in the terminal, just before pytest is stopped.
    """
    capture: Any = config.pluginmanager.getplugin("capturemanager")
    stopped_s = float(config.getini("faulthandler_timeout"))
    first_s, last_s = max(HANG_TOLD_S, stopped_s / 5), stopped_s * 0.7

    def tell_in_terminal() -> None:
        with capture.global_and_fixture_disabled() if capture else nullcontext():
            sys.stderr.write(task_stacks())

    def tell() -> None:
        sys.stderr.write(task_stacks())
        if last_s > 0:
            timers.append(threading.Timer(last_s, tell_in_terminal))
            timers[-1].start()

    timers = [threading.Timer(first_s, tell)]
    timers[0].start()
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Watch a test for hangs, and fail one that blocked a loop (a fixture could only report an error after
    it passed).
    """
    with _hangs_told(item.config):
        return (yield from _call_watched(item))


def _call_watched(item: pytest.Item) -> Generator[None, object, object]:
    if item.get_closest_marker("allow_blocking"):
        return (yield)
    with watch_event_loops() as blocked:
        result = yield
    if blocked:
        pytest.fail("the event loop was blocked for " + "; ".join(blocked[:5]), pytrace=False)
    return result


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an embedded log that no other test sees."""
    return f"sqlite:{tmp_path}/events.db"
