"""What others do to the database under a PostgreSQL log: stop within a transaction, or take things away."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from opened_log import opened
from runstream.conformance.check import (
    collect,
    ending,
    kinds_of,
    notes,
    numbers_of,
    read_all,
    subscribe,
)
from runstream.errors import NotALog, RunNotFound
from runstream.log import Log, Producer
from runstream.record import make_draft
from services.postgres import PASSWORD, PostgresServer
from services.proxy import proxy_to

RUN = "run-1"
# A guard against hanging.
HANG_S = 120.0


async def test_a_writer_that_stops_within_its_transaction_holds_the_others_up_for_a_moment_only(
    postgres_server: PostgresServer,
) -> None:
    server = postgres_server
    async with proxy_to(server.port) as proxy:
        url = server.url_at(proxy.port)
        async with asyncio.timeout(HANG_S), opened(server.url) as log, opened(url) as stopped:
            await log.open(RUN, producer=None, workflow="nightly")
            writing = asyncio.ensure_future(_write(stopped, "stopped", 10_000))
            await log.wait(RUN, after=20, timeout=HANG_S)
            proxy.hold()  # most of the time between two of its statements
            await _write(log, "other", 20)
            proxy.flow()
            last = (await log.info(RUN)).last_seq
            await log.wait(RUN, after=last, timeout=HANG_S)  # it goes on by itself
            writing.cancel()
            records = await read_all(log, RUN)
            theirs = numbers_of(draft for draft in records if draft.topic == "stopped")
            assert theirs == list(range(len(theirs)))
            ours = numbers_of(draft for draft in records if draft.topic == "other")
            assert ours == list(range(20))


async def _write(log: Log, name: str, count: int) -> None:
    for n in range(count):
        draft = make_draft(RUN, "note", {"n": n}, topic=name)
        await log.append(RUN, [draft], producer=Producer(name, 0, n + 1))


# --- what somebody takes away --------------------------------------------------------------------


async def test_a_log_whose_tables_are_dropped_tells_its_readers_and_begins_anew(
    postgres_server: PostgresServer,
) -> None:
    server = postgres_server
    async with asyncio.timeout(HANG_S), opened(server.url) as log, opened(server.url) as other:
        await log.open(RUN, producer=None, workflow="nightly")
        await log.append(RUN, notes(RUN, range(3)))
        subscriptions = [subscribe(one, RUN) for one in (log, other)]
        before = [[await anext(one) for _ in range(3)] for one in subscriptions]
        following = [asyncio.ensure_future(collect(one)) for one in subscriptions]
        await asyncio.to_thread(server.sql, "DROP SCHEMA runstream CASCADE")
        for records in await asyncio.gather(*following):
            assert [(record.kind, record.data["reason"]) for record in records] == [
                ("stream.gap", "removed")
            ]
        with pytest.raises(RunNotFound):
            await log.append(RUN, notes(RUN, [4]))
        await other.open(RUN, producer=None, workflow="nightly")
        await log.append(RUN, [*notes(RUN, [5]), ending(RUN)], final=True)
        records = await collect(subscribe(log, RUN, after=before[0][-1].cursor))
        assert kinds_of(records) == ["stream.gap", "note", "run.completed"]
        assert records[0].data["reason"] == "generation_changed"


async def test_a_log_that_lost_one_of_its_tables_says_so(postgres_server: PostgresServer) -> None:
    async with asyncio.timeout(HANG_S), opened(postgres_server.url) as log:
        await log.open(RUN, producer=None, workflow="nightly")
        await log.append(RUN, notes(RUN, range(3)))
        subscription = subscribe(log, RUN)
        await anext(subscription)
        await asyncio.to_thread(postgres_server.sql, "DROP TABLE runstream.chunk")
        for call in (collect(subscription), log.append(RUN, notes(RUN, [3]))):
            with pytest.raises(NotALog, match=r"lost some of its tables.*begin anew"):
                await call


async def test_records_that_somebody_deletes_are_a_gap(postgres_server: PostgresServer) -> None:
    server = postgres_server
    async with asyncio.timeout(HANG_S), opened(server.url) as log:
        await log.open(RUN, producer=None, workflow="nightly")
        for n in range(6):
            await log.append(RUN, notes(RUN, [n]))
        delete = "DELETE FROM runstream.chunk WHERE last_seq IN (1, 3, 4, 6)"
        await asyncio.to_thread(server.sql, delete)
        await log.append(RUN, [ending(RUN)], final=True)
        records = await collect(subscribe(log, RUN))
        assert [record.seq for record in records if not record.is_gap] == [2, 5, 7]
        gaps = [record.data for record in records if record.is_gap]
        assert [(gap["from_seq"], gap["to_seq"]) for gap in gaps] == [(1, 1), (3, 4), (6, 6)]
        await asyncio.to_thread(server.sql, "TRUNCATE runstream.chunk")
        records = await collect(subscribe(log, RUN))
        assert [record.data["to_seq"] for record in records] == [7]


# --- retention -----------------------------------------------------------------------------------


async def test_finished_runs_age_out_whoever_wrote_them_and_running_ones_stay(
    postgres_server: PostgresServer,
) -> None:
    url = f"{postgres_server.url}?retention=1s"
    async with asyncio.timeout(HANG_S), opened(url) as log, opened(url) as other:
        for run, one in (("old", log), ("older", other), ("young", log)):
            await one.open(run, producer="p", workflow="nightly")
            child = f"{run}-child"
            await one.open(child, producer=None, workflow="nightly", parent_run_id=run)
        # More chunks than one slice removes.
        await asyncio.gather(*(log.append("old", notes("old", [n])) for n in range(700)))
        subscription = subscribe(other, "old")
        await anext(subscription)
        for run in ("old", "older"):
            await log.append(run, [ending(run)], final=True)
        while [info.run_id for info in await other.list()] != ["young-child", "young"]:
            await other.wait("old", after=10_000, timeout=0.1)
        kinds = kinds_of([record async for record in subscription])
        assert kinds[-1] in {"stream.gap", "run.completed"}
        await log.append("young", notes("young", [1]))
        tables = ("run", "producer", "chunk")
        counts = [
            (
                await asyncio.to_thread(
                    postgres_server.sql, f"SELECT count(*) FROM runstream.{name}"
                )
            )[0]
            for name in tables
        ]
        assert counts == [(2,), (1,), (1,)]


async def test_a_process_that_only_looks_removes_nothing(postgres_server: PostgresServer) -> None:
    server = postgres_server
    async with asyncio.timeout(HANG_S), opened(f"{server.url}?retention=off") as log:
        await log.open(RUN, producer=None, workflow="nightly")
        await log.append(RUN, [ending(RUN)], final=True)
        await asyncio.to_thread(server.sql, "UPDATE runstream.run SET ended = 0")
        async with opened(f"{server.url}?retention=1s") as other:
            for _ in range(20):
                await other.wait(RUN, after=10, timeout=0.01)
            assert (await other.info(RUN)).has_ended
            await other.open("another", producer=None, workflow="nightly")
            with pytest.raises(RunNotFound):
                while True:
                    await other.info(RUN)


def test_the_command_line_shows_no_password(postgres_server: PostgresServer) -> None:
    for url in (postgres_server.url, f"{postgres_server.url}?colour=red"):
        command = [sys.executable, "-m", "runstream", "check", url, "--only", "order"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert ("0 broken" in done.stdout) == (done.returncode == 0), done.stdout
        assert PASSWORD not in done.stdout
        assert "p4ss%3A" not in done.stdout
