"""Runs whose owner vanishes: leases, taking over, and being lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator

import pytest

from embedded_logs import (
    PATIENCE_S,
    closed_publishers,
    info,
    kinds,
    kinds_followed,
    records,
    refuses,
    url,
    wait_until,
)
from runstream import (
    RunEnded,
    RunLost,
    connect,
    process,
    publish,
    start_run,
)
from runstream.errors import LeaseHeld, LeaseLost, ProducerFenced
from runstream.log import Lease

__all__ = ["closed_publishers", "url"]

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
    with holder(sqlite_url, lease=6.0):
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
            following = [asyncio.ensure_future(kinds_followed(streams, "r1")) for _ in range(3)]
            await asyncio.to_thread(killed, there)
            got = await asyncio.wait_for(asyncio.gather(*following), PATIENCE_S)
            with pytest.raises(RunLost):
                await streams.handler("r1")
            return got

    with holder(sqlite_url, lease=0.3, grace=grace) as there:
        got = asyncio.run(follow())
    stalled = ["run.stalled"] if grace else []
    assert got == [["run.started", "event", *stalled, "run.lost"]] * 3


def test_a_process_that_lost_its_run_hears_so_and_ends_nothing(url: str) -> None:
    gone = pytest.raises((LeaseLost, ProducerFenced, RunEnded))
    with gone, start_run("w", url=url, run_id="r1", lease=0.2):
        lost(url, "r1")
        wait_until(lambda: refuses(publish))
    assert kinds(url, "r1")[-1] == "run.lost"


def test_a_body_that_fails_after_its_run_was_lost_keeps_its_own_error(url: str) -> None:
    with pytest.raises(ZeroDivisionError), start_run("w", url=url, run_id="r1", lease=0.2):
        lost(url, "r1")
        wait_until(lambda: refuses(publish))
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
