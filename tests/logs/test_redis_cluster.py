"""The Redis log on a Redis Cluster: the same promises, with its streams on several nodes."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from opened_log import insist
from runstream.conformance import CHECKS, log_factory
from runstream.conformance.check import (
    REMOTE_CHECK_S_MAX,
    Check,
    collect,
    ending,
    new_name,
    notes,
    numbers_of,
    read_all,
    subscribe,
)
from runstream.errors import InvalidURL
from runstream.log import Log, Producer
from runstream.logs import open_log
from services.redis import RedisServer, running_cluster

# Seconds in which a cluster's nodes tell each other who has which slots.
DEADLINE_S = 30.0


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.area}-{check.name}")
async def test_a_redis_cluster_keeps_the_promise(
    check: Check, redis_cluster: list[RedisServer]
) -> None:
    async with asyncio.timeout(REMOTE_CHECK_S_MAX):
        await check.run(log_factory(redis_cluster[0].url))


async def test_a_log_is_the_same_through_every_node(redis_cluster: list[RedisServer]) -> None:
    # (Names that are always the same: which node each is on is decided by them.)
    runs = [f"everywhere-{number}" for number in range(12)]
    logs = [await asyncio.to_thread(open_log, node.url) for node in redis_cluster]
    for number, run in enumerate(runs):
        await logs[number % 3].open(run, producer=None, workflow="w")
        await logs[(number + 1) % 3].append(run, notes(run, [number]))
    for log in logs:
        for number, run in enumerate(runs):
            assert numbers_of(await read_all(log, run)) == [number]
        assert set(runs) <= {info.run_id for info in await log.list(limit=1000)}
        await log.aclose()
    # (And they do lie on several nodes.)
    said = [await asyncio.to_thread(node.call, "DBSIZE") for node in redis_cluster]
    assert all(int(size.removeprefix(":")) > 0 for size in said)


async def test_a_stream_whose_slot_moves_goes_on(redis_cluster: list[RedisServer]) -> None:
    run = new_name()
    log = await asyncio.to_thread(open_log, redis_cluster[0].url)
    await log.open(run, producer=None, workflow="w")
    subscription = subscribe(log, run)
    await log.append(run, notes(run, [1]), producer=Producer("p", 0, 1))
    assert numbers_of(await collect(subscription, 1)) == [1]
    following = asyncio.ensure_future(collect(subscription))
    await asyncio.to_thread(move_slot, redis_cluster, f"runstream:{{{run}}}")
    await log.append(run, notes(run, [2]), producer=Producer("p", 0, 2))
    await log.append(run, [ending(run)], producer=Producer("p", 0, 3), final=True)
    seen = await following
    # Another server has it now, which nobody can trust to have all of it: so readers begin anew.
    assert [record.kind for record in seen] == ["stream.gap", "note", "note", "run.completed"]
    assert seen[0].data["reason"] == "generation_changed"
    await log.aclose()


@pytest.fixture
def replicated_cluster(tmp_path: Path) -> Generator[list[RedisServer]]:
    """A cluster of this test alone, whose first master has a replica."""
    with running_cluster(tmp_path, replicas=1) as nodes:
        yield nodes


async def test_a_failover_is_survived_by_writers_and_readers(
    replicated_cluster: list[RedisServer],
) -> None:
    log = await asyncio.to_thread(open_log, replicated_cluster[0].url)
    try:
        await survive_failover(log, replicated_cluster[0])
    finally:
        await log.aclose()


async def survive_failover(log: Log, master: RedisServer) -> None:
    # (Names that are always the same: which node each is on is decided by them.)
    runs = [f"run-{number}" for number in range(9)]
    for run in runs:
        await log.open(run, producer=None, workflow="w")
        await log.append(run, notes(run, [1]), producer=Producer("p", 0, 1))
    subscriptions = [subscribe(log, run) for run in runs]
    for subscription in subscriptions:
        assert numbers_of(await collect(subscription, 1)) == [1]
    following = [asyncio.ensure_future(collect(subscription)) for subscription in subscriptions]
    # Replicas lag: what has not reached them yet goes with the master, runs and all.
    await asyncio.to_thread(wait_replicated, master)
    await asyncio.to_thread(master.kill)
    for run in runs:
        await insist(log, run, notes(run, [2]), Producer("p", 0, 2))
        await insist(log, run, [ending(run)], Producer("p", 0, 3))
    moved = 0
    for seen in await asyncio.gather(*following):
        # Of another server nobody knows whether it has all that was acknowledged: a gap says so.
        if seen[0].is_gap:
            moved += 1
            assert seen[0].data["reason"] == "generation_changed"
            assert numbers_of(seen[1:-1]) == [1, 2]
        else:
            assert numbers_of(seen[:-1]) == [2]
    assert 0 < moved < len(runs)
    listed = await log.list(status="completed")
    assert {info.run_id for info in listed} == set(runs)


def wait_replicated(master: RedisServer) -> None:
    """Until its replica has said that it has all that was written so far (it does so every second)."""
    written = re.search(r"master_repl_offset:(\d+)", master.call("INFO", "replication"))
    assert written
    deadline = time.monotonic() + DEADLINE_S
    while True:
        has = re.search(r"slave0:.*offset=(\d+)", master.call("INFO", "replication"))
        if has and int(has[1]) >= int(written[1]):
            return
        assert time.monotonic() < deadline, "the replica never has it all"
        time.sleep(0.02)


def move_slot(nodes: list[RedisServer], key: str) -> None:
    """Move the slot of a key, with what is in it, from its node to the next one."""
    slot = nodes[0].call("CLUSTER", "KEYSLOT", key).removeprefix(":")
    names = [node.call("CLUSTER", "MYID").split()[-1] for node in nodes]
    owner = next(
        at for at, node in enumerate(nodes) if not node.call("GET", key).startswith("-MOVED")
    )
    heir = (owner + 1) % len(nodes)
    assert nodes[heir].call("CLUSTER", "SETSLOT", slot, "IMPORTING", names[owner]) == "+OK"
    assert nodes[owner].call("CLUSTER", "SETSLOT", slot, "MIGRATING", names[heir]) == "+OK"
    keys = nodes[owner].call("CLUSTER", "GETKEYSINSLOT", slot, "100").split("\r\n")[2::2]
    moved = nodes[owner].call(
        "MIGRATE", "127.0.0.1", str(nodes[heir].port), "", "0", "5000", "KEYS", *keys
    )
    assert moved == "+OK", moved
    for at in (heir, owner, 3 - heir - owner):
        assert nodes[at].call("CLUSTER", "SETSLOT", slot, "NODE", names[heir]) == "+OK"


def test_a_cluster_has_one_database(redis_cluster: list[RedisServer]) -> None:
    url = redis_cluster[0].url.removesuffix("/0") + "/1"
    with pytest.raises(InvalidURL, match="database"):
        open_log(url)
