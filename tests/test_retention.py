"""Where retention is set: in the environment, for one run, in a URL, over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from command_process import run_command
from runstream import Retention, connect, publish, start_run
from runstream.errors import InvalidInput, RunNotFound
from runstream.logs import open_log
from runstream.logs.memory import MemoryLog
from runstream.process import close_publishers
from runstream.record import make_draft, now_us
from runstream.run import new_run_id
from runstream.settings import read_settings
from runstream.wire import rfc3339
from server_process import running_server


async def test_a_run_keeps_its_own_limits_while_its_process_runs_it(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path}/events.db"
    async with (
        start_run("w", url=url, retention=Retention(records=10)) as run,
        connect(url) as streams,
    ):
        for number in range(100):
            publish({"n": number})
        async with asyncio.timeout(60):
            while (await streams.info(run.run_id)).first_seq < 90:
                await asyncio.sleep(0.02)
    close_publishers()


@pytest.mark.parametrize("engine", ["redis_url", "postgres_url", "nats_url"])
@pytest.mark.parametrize("of_run", [True, False])
@pytest.mark.allow_blocking  # the drivers are imported
async def test_on_an_engine_that_many_share_a_process_keeps_the_limits_of_the_runs_it_holds(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, engine: str, of_run: bool
) -> None:
    url: str = request.getfixturevalue(engine)
    if not of_run:
        monkeypatch.setenv("RUNSTREAM_RETENTION_RECORDS", "10")
    async with connect(url) as streams:
        another = new_run_id()
        await streams.log.open(another, producer=None, workflow="w")
        drafts = [make_draft(another, "note", {"n": number}) for number in range(100)]
        await streams.log.append(another, drafts)
        limits = Retention(records=10) if of_run else None
        async with start_run("w", url=url, retention=limits) as run:
            for number in range(100):
                publish({"n": number})
            async with asyncio.timeout(60):
                while (await streams.info(run.run_id)).first_seq < 90:
                    await asyncio.sleep(0.02)
        # Whoever runs that one will look after it.
        assert (await streams.info(another)).first_seq == 1
    close_publishers()


async def test_limits_of_the_environment_hold_for_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RUNSTREAM_RETENTION_RECORDS", "10")
    url = f"sqlite:{tmp_path}/events.db"
    async with start_run("w", url=url) as run, connect(url) as streams:
        for number in range(100):
            publish({"n": number})
        async with asyncio.timeout(60):
            while (await streams.info(run.run_id)).first_seq < 90:
                await asyncio.sleep(0.02)
    close_publishers()


def test_the_environment_names_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_settings({}).retention == Retention()
    settings = read_settings(
        {
            "RUNSTREAM_RETENTION_RECORDS": "1000",
            "RUNSTREAM_RETENTION_BYTES": "5000000000",
            "RUNSTREAM_RETENTION_AGE_S": "3600",
        }
    )
    assert settings.retention == Retention(records=1000, size_bytes=5_000_000_000, age=3600.0)
    for name in ("RECORDS", "BYTES", "AGE_S"):
        with pytest.raises(InvalidInput, match=name):
            read_settings({f"RUNSTREAM_RETENTION_{name}": "0"})


async def test_limits_that_cannot_be_are_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="retention keeps records from 1"):
        start_run("w", retention=Retention(records=0))
    url = f"sqlite:{tmp_path}/events.db"
    async with start_run("w", url=url) as parent:
        with pytest.raises(InvalidInput, match="give the retention to the root"):
            async with start_run(
                "child", url=url, parent=parent.run_id, retention=Retention(records=1)
            ):
                pass
    close_publishers()


async def test_finished_runs_age_out_of_memory_when_others_begin() -> None:
    log = MemoryLog(retention_s=1e-6)
    for run_id in ("a", "b"):
        await log.open(run_id, producer=None, workflow="w")
        await log.open(f"{run_id}.child", producer=None, workflow="w", parent_run_id=run_id)
        await log.append(run_id, [make_draft(run_id, "run.completed", {})], final=True)
    await log.open("c", producer=None, workflow="w")
    assert [info.run_id for info in await log.list()] == ["c"]
    with pytest.raises(RunNotFound):
        await log.info("a.child")
    assert open_log("memory:?retention=off") is not None


async def test_a_run_whose_id_is_used_again_does_not_age_out_with_the_first() -> None:
    log = MemoryLog(retention_s=3600)
    for _ in range(2):
        await log.open("a", producer=None, workflow="w")
        await log.append("a", [make_draft("a", "run.completed", {})], final=True)
        if not log._runs:  # pyright: ignore[reportPrivateUsage] - never: it is there
            break
        await log.remove("a")
    await log.open("a", producer=None, workflow="w")
    log._retention_s = 0.0  # pyright: ignore[reportPrivateUsage] - as if the hour were over
    await log.open("b", producer=None, workflow="w")
    assert [info.run_id for info in await log.list()] == ["b", "a"]


def until(condition: Callable[[], bool]) -> None:
    late = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < late
        time.sleep(0.02)


def test_over_http_a_run_gets_limits_and_the_server_enforces_them(
    tmp_path: Path, sqlite_url: str
) -> None:
    with running_server(tmp_path, sqlite_url) as server:
        limits = {"records": 10}
        opened = server.call("PUT", "/v1/runs/r", {"workflow": "w", "retention": limits})
        assert opened.status == 201
        for name, wrong in (("records", 0), ("age", -1), ("bytes", 5)):
            reply = server.call("PUT", "/v1/runs/r", {"retention": {name: wrong}})
            assert (reply.status, reply.json["code"]) == (400, "invalid_input"), reply
        events = {"events": [{"kind": "note", "data": {"n": n}} for n in range(100)]}
        assert server.call("POST", "/v1/runs/r/events", events).status == 200
        until(lambda: server.call("GET", "/v1/runs/r").json["first_seq"] == 91)
        text = server.call("GET", "/metrics").body.decode()
        assert "runstream_records_trimmed_total 90.0" in text
        with connect(server.url) as streams:
            found = list(streams.subscribe("r", follow=False))
        assert found[0].is_gap
        assert [record.seq for record in found[1:]] == list(range(91, 101))
        assert server.call("PUT", "/v1/runs/r", {"retention": {}}).status == 200
        with connect(sqlite_url) as streams:
            assert streams.info("r").first_seq == 91


def test_a_client_sets_the_limits_of_its_run_through_the_server(
    tmp_path: Path, sqlite_url: str
) -> None:
    with running_server(tmp_path, sqlite_url) as server:
        with start_run("w", url=server.url, retention=Retention(records=5)) as run:
            for number in range(50):
                publish({"n": number})
            until(lambda: server.call("GET", f"/v1/runs/{run.run_id}").json["first_seq"] >= 40)
        close_publishers()


@pytest.mark.parametrize(
    ("option", "value", "first_seq"),
    # The environment allows 9 of the 10 records.
    [("--keep-records", "5", 6), ("--keep-bytes", "30", 8), ("--keep-for", "1h", 10)],
)
def test_a_server_is_told_how_much_to_keep(
    tmp_path: Path, sqlite_url: str, option: str, value: str, first_seq: int
) -> None:
    with running_server(
        tmp_path, sqlite_url, option, value, RUNSTREAM_RETENTION_RECORDS="9"
    ) as server:
        assert server.call("PUT", "/v1/runs/r", {"workflow": "w"}).status == 201
        two_hours_ago = rfc3339(now_us() - 7200 * 1_000_000)
        event = {"kind": "note", "data": "9 bytes", "time": two_hours_ago}
        events = {"events": [event] * 10}
        assert server.call("POST", "/v1/runs/r/events", events).status == 200
        until(lambda: server.call("GET", "/v1/runs/r").json["first_seq"] == first_seq)


@pytest.mark.parametrize(
    ("option", "value"), [("--keep-records", "0"), ("--keep-bytes", "1GB"), ("--keep-for", "soon")]
)
def test_a_limit_that_cannot_be_is_explained(sqlite_url: str, option: str, value: str) -> None:
    ended = run_command(sqlite_url, "serve", option, value)
    assert ended.returncode == 2
    assert option in ended.stderr
