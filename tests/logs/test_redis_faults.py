"""What only a Redis does to its log: it forgets what it acknowledged, runs what comes too late, is full at
once, and has an index that may be behind.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from opened_log import insist, opened, wait_for_removal
from runstream.bell import Bell
from runstream.conformance.check import (
    collect,
    ending,
    new_name,
    notes,
    numbers_of,
    read_all,
    subscribe,
)
from runstream.errors import InvalidInput, InvalidPosition, LogUnavailable, RunNotFound
from runstream.log import Appended, Producer
from runstream.logs.redis_nodes import Address
from runstream.logs.redis_wakeups import Wakeups
from runstream.record import Cursor
from services.proxy import proxy_to
from services.redis import RedisServer

# No honest wait of a test comes near it.
DEADLINE_S = 120.0


async def test_what_hung_in_a_paused_server_when_its_caller_gave_up_is_void(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(redis_server.url) as log:
        await log.open("r", producer=None, workflow="w")
        # How long a call waits is not the point.
        monkeypatch.setattr("runstream.logs.redis_line.REPLY_S_MAX", 0.4)
        monkeypatch.setattr("runstream.logs.redis_line.CALL_S_MAX", 0.5)
        await asyncio.to_thread(redis_server.pause)
        late = [
            log.append("r", notes("r", [1]), producer=Producer("p", 0, 1)),
            log.append("r", notes("r", [2])),
            log.open("r", producer="q"),
        ]
        for refusal in await asyncio.gather(*late, return_exceptions=True):
            assert isinstance(refusal, LogUnavailable)
        redis_server.resume()
        monkeypatch.undo()
        await insist(log, "r", notes("r", [3]), Producer("p", 0, 1))
        assert numbers_of(await read_all(log, "r")) == [3]
        assert (await log.open("r", producer="q")).epoch == 1


async def test_a_wait_that_a_broken_connection_could_miss_returns(
    redis_server: RedisServer,
) -> None:
    async with (
        proxy_to(redis_server.port) as proxy,
        opened(redis_server.url_at(proxy.port)) as log,
        opened(redis_server.url) as other,
    ):
        await log.open("r", producer=None, workflow="w")
        await log.wait("r", after=0, timeout=DEADLINE_S)  # the first one looks, and returns
        waiting = asyncio.ensure_future(log.wait("r", after=0, timeout=DEADLINE_S))
        while "runstream:0:r" not in await asyncio.to_thread(
            redis_server.call, "PUBSUB", "CHANNELS"
        ):
            assert not waiting.done()
        proxy.refuse()
        await other.append("r", notes("r", [1]))
        proxy.accept()
        async with asyncio.timeout(DEADLINE_S):
            await waiting
        assert (await log.read("r", after=Cursor(None, 0))).drafts


async def test_wakeups_are_closed_at_whatever_step_of_connecting_they_are(redis_url: str) -> None:
    address = Address.parse(redis_url, None)
    for steps in range(200):
        wakeups = Wakeups(address.connection, str, Bell(), None)
        listening = asyncio.ensure_future(wakeups.listen(new_name()))
        for _ in range(steps):
            await asyncio.sleep(0)
        async with asyncio.timeout(DEADLINE_S):
            await wakeups.close()
        await asyncio.gather(listening, return_exceptions=True)


async def test_a_silent_network_is_noticed_and_then_gone_around(redis_server: RedisServer) -> None:
    async with proxy_to(redis_server.port) as proxy, opened(redis_server.url_at(proxy.port)) as log:
        await log.open("r", producer=None, workflow="w")
        proxy.hold()
        with pytest.raises(LogUnavailable, match="does not answer"):
            await log.info("r")
        proxy.flow()
        async with asyncio.timeout(DEADLINE_S):
            while True:
                try:
                    assert (await log.info("r")).run_id == "r"
                    break
                except LogUnavailable:
                    continue


async def test_a_full_server_refuses_new_runs(redis_server: RedisServer) -> None:
    async with opened(redis_server.url) as log:
        await asyncio.to_thread(redis_server.fill)
        with pytest.raises(LogUnavailable, match="maxmemory"):
            await log.open("new", producer=None, workflow="w")
        await asyncio.to_thread(redis_server.make_room)
        assert (await log.open("new", producer=None, workflow="w")).created


async def test_a_server_that_forgot_what_it_acknowledged_is_told_as_a_gap(
    redis_server: RedisServer,
) -> None:
    folder = redis_server.folder
    async with opened(f"{redis_server.url}") as log:
        await log.open("r", producer=None, workflow="w")
        await log.append("r", notes("r", range(3)), producer=Producer("p", 0, 1))
    await asyncio.to_thread(redis_server.stop)
    # What a server with appendfsync everysec has on its disk after a power cut.
    # (In a folder of its own since Redis 7.)
    old = {path: path.read_bytes() for path in folder.rglob("appendonly*") if path.is_file()}
    redis_server.command += ["--appendfsync", "everysec"]
    await asyncio.to_thread(redis_server.start)
    async with opened(redis_server.url) as log:
        subscription = subscribe(log, "r")
        await log.append("r", notes("r", range(3, 6)), producer=Producer("p", 0, 4))
        begun = await collect(subscription, 6)
        await asyncio.to_thread(redis_server.kill)
        for path, content in old.items():
            path.write_bytes(content)
        following = asyncio.ensure_future(collect(subscription))
        await asyncio.to_thread(redis_server.start)
        await insist(log, "r", notes("r", range(6, 9)), Producer("p", 0, 7))
        await insist(log, "r", [ending("r")], Producer("p", 0, 10))
        rest = await following
        assert numbers_of(begun) == list(range(6))
        assert rest[0].data["reason"] == "generation_changed"
        assert numbers_of(rest[1:-1]) == [0, 1, 2, 6, 7, 8]


async def test_what_cannot_be_sent_is_refused_alone(redis_url: str) -> None:
    run = new_name()
    async with opened(redis_url) as log:
        await log.open(run, producer=None, workflow="w")
        odd = log.append(run, notes(run, [0]), producer=Producer("\ud800", 0, 1))
        good = log.append(run, notes(run, [1]), producer=Producer("p", 0, 1))
        refused, stored = await asyncio.gather(odd, good, return_exceptions=True)
        assert isinstance(refused, InvalidInput)
        assert stored == Appended(1, 1)
        await log.wait("\ud800", after=0, timeout=0.01)
        with pytest.raises(RunNotFound):
            await log.info("\ud800")
        with pytest.raises(InvalidPosition):
            await log.read(run, after=Cursor(None, 10**30))


async def test_what_ended_in_a_process_that_died_at_once_is_listed_and_ages_out(
    redis_server: RedisServer,
) -> None:
    async with opened(redis_server.url) as log:
        await log.open("r", producer=None, workflow="w")
        await log.append("r", [ending("r")], final=True)
        await log.aclose()
    # As if it had died before it could tell the index.
    for key in ("runs:completed", "runs:completed/w", "ends"):
        await asyncio.to_thread(redis_server.call, "DEL", f"runstream:{{/}}:{key}")
    now = str(time.time_ns() // 1000)
    for key in ("runs:active", "runs:active/w"):
        await asyncio.to_thread(redis_server.call, "ZADD", f"runstream:{{/}}:{key}", now, "r")
    async with opened(f"{redis_server.url}?retention=1s") as log:
        assert [info.run_id for info in await log.list(status="completed")] == ["r"]
        assert not await log.list(status="running")
        await log.open("other", producer=None, workflow="w")
        await wait_for_removal(log, "r")


async def test_a_child_whose_opener_died_half_way_is_opened_by_the_next_one(
    redis_server: RedisServer,
) -> None:
    async with opened(redis_server.url) as log:
        await log.open("root", producer=None, workflow="w")
        # It was pointed at, but not created yet.
        place = "root\nroot\nfirst"
        await asyncio.to_thread(redis_server.call, "SET", "runstream:{child}:root", place)
        with pytest.raises(RunNotFound):
            await log.info("child")
        opening = log.open("child", producer=None, workflow="second", parent_run_id="root")
        assert (await opening).info.workflow == "first"
        await log.append("child", notes("child", [1]))
        page = await log.read("root", after=Cursor(None, 0))
        assert [draft.run_id for draft in page.drafts] == ["child"]
