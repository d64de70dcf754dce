from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from runstream.log import LeaseClaim, Log, RunInfo
from runstream.logs.memory import MemoryLog
from runstream.logs.sqlite import SqliteLog
from runstream.record import Cursor, make_draft
from runstream.server.lease_watch import PAGE, LeaseWatch, open_runs_of, watch_leases
from runstream.server.metrics import Metrics
from runstream.server.site import Site
from server_process import running_server

DEAD = LeaseClaim(lease_s=15.0)
RESUMABLE = LeaseClaim(lease_s=15.0, grace_s=60.0)


async def begin(log: Log, run_id: str, claim: LeaseClaim | None = DEAD) -> None:
    opened = await log.open(run_id, producer=f"owner-{run_id}", workflow="w", claim=claim)
    assert opened.created


async def statuses(log: Log, *run_ids: str) -> list[str]:
    return [(await log.info(run_id)).status for run_id in run_ids]


async def test_a_run_whose_owner_vanished_ends_although_nobody_follows_it() -> None:
    log, metrics = MemoryLog(), Metrics()
    await begin(log, "dead")
    await begin(log, "resumable", RESUMABLE)
    await begin(log, "without-lease", None)
    watch = LeaseWatch(log, metrics)
    await watch.look(now=0.0)
    await watch.look(now=14.9)
    assert await statuses(log, "dead", "resumable") == ["running", "running"]
    await watch.look(now=15.1)
    assert await statuses(log, "dead", "resumable") == ["lost", "stalled"]
    await watch.look(now=16.0)
    await watch.look(now=75.0)
    assert await statuses(log, "resumable") == ["stalled"]
    await watch.look(now=76.1)
    assert await statuses(log, "resumable", "without-lease") == ["lost", "running"]
    text = metrics.expose().decode()
    assert 'runstream_leases_expired_total{status="lost"} 2.0' in text
    assert 'runstream_leases_expired_total{status="stalled"} 1.0' in text
    assert 'runstream_open_runs{status="running"}' in text


async def test_a_run_that_is_renewed_or_parked_stays() -> None:
    log = MemoryLog()
    await begin(log, "renewed")
    await begin(log, "parked")
    watch = LeaseWatch(log, Metrics())
    await log.append("parked", [make_draft("parked", "run.waiting", {})])
    for now in range(0, 100, 10):
        await watch.look(now=float(now))
        await log.renew("renewed", owner="owner-renewed", epoch=1)
    assert await statuses(log, "renewed", "parked") == ["running", "waiting"]


async def test_every_open_run_is_seen_however_many_there_are() -> None:
    log = MemoryLog()
    count = 2 * PAGE + 7
    for number in range(count):
        await begin(log, f"r{number}")
    found = [info.run_id async for info in open_runs_of(log)]
    assert sorted(found) == sorted(f"r{number}" for number in range(count))
    watch = LeaseWatch(log, Metrics())
    await watch.look(now=0.0)
    await watch.look(now=20.0)
    assert [info async for info in open_runs_of(log)] == []


async def test_a_page_that_ended_with_a_removed_run_ends_this_look_only() -> None:
    class Removing(MemoryLog):
        async def list(self, **options: object) -> Sequence[RunInfo]:
            before = options.get("before")
            if before is not None:
                self._runs.pop(str(before), None)
            return await super().list(**options)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType] - as they came

    log = Removing()
    for number in range(PAGE + 1):
        await begin(log, f"r{number}")
    assert len([info async for info in open_runs_of(log)]) == PAGE


async def test_what_was_observed_of_runs_that_are_gone_is_forgotten() -> None:
    log = MemoryLog()
    await begin(log, "short")
    watch = LeaseWatch(log, Metrics())
    await watch.look(now=0.0)
    assert len(watch._observers) == 1  # pyright: ignore[reportPrivateUsage] - what it holds is the point
    await log.append("short", [make_draft("short", "run.completed", {})], final=True)
    await watch.look(now=1.0)
    assert not watch._observers  # pyright: ignore[reportPrivateUsage] - likewise


async def test_the_watch_ends_an_abandoned_run_by_itself_and_stops_with_its_log(
    tmp_path: Path,
) -> None:
    log = SqliteLog(tmp_path / "events.db")
    await begin(log, "dead", LeaseClaim(lease_s=0.2))
    watching = asyncio.create_task(watch_leases(Site(log=log)))
    async with asyncio.timeout(30):
        while await statuses(log, "dead") != ["lost"]:
            await asyncio.sleep(0.02)
    page = await log.read("dead", after=Cursor(None, 0))
    assert [draft.kind for draft in page.drafts] == ["run.lost"]
    assert page.ended
    assert not watching.done()
    await log.aclose()
    async with asyncio.timeout(30):
        await watching


def test_a_server_ends_a_run_that_was_abandoned_over_http(tmp_path: Path, sqlite_url: str) -> None:
    with running_server(tmp_path, sqlite_url) as server:
        claim = {"workflow": "w", "producer": "worker", "lease_s": 0.3}
        assert server.call("PUT", "/v1/runs/r", claim).status == 201
        late = time.monotonic() + 60
        while server.call("GET", "/v1/runs/r").json["status"] != "lost":
            assert time.monotonic() < late
            time.sleep(0.05)
        figures = server.call("GET", "/metrics").body
        assert b'runstream_leases_expired_total{status="lost"} 1.0' in figures


@pytest.mark.parametrize("count", [0, 1])
async def test_the_watch_stops_when_it_is_cancelled(count: int) -> None:
    log = MemoryLog()
    for number in range(count):
        await begin(log, f"r{number}")
    watching = asyncio.create_task(watch_leases(Site(log=log)))
    await asyncio.sleep(0)
    watching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watching
