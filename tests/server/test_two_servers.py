"""Two servers on one log of an engine: any of them takes appends and serves followers of any run, and
whichever process is killed, each follower gets each record once and in order.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Generator
from pathlib import Path

import pytest

from opened_log import insist
from programs import report
from runstream.conformance.check import collect, ending, notes, subscribe
from runstream.errors import LogUnavailable
from runstream.log import Log, Producer
from runstream.logs import open_log
from runstream.record import Record
from runstream.subscription import Subscription
from server_process import ServerProcess
from services.engine import Engine
from services.nats import NatsServer
from services.postgres import PostgresServer
from services.redis import RedisServer

RUN = "r"
# A guard against hanging, for each kill: what is killed comes back within a second or two.
HANG_S = 30.0
PAUSE_S_MAX = 0.3

EngineServer = RedisServer | PostgresServer | NatsServer


# (NATS takes a minute to come back and forth so often.)
@pytest.fixture(params=["redis", "postgres", pytest.param("nats", marks=pytest.mark.soak)])
def engine(request: pytest.FixtureRequest) -> EngineServer:
    server: EngineServer = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def servers(
    engine: EngineServer, tmp_path_factory: pytest.TempPathFactory
) -> Generator[list[ServerProcess]]:
    with contextlib.ExitStack() as running:
        servers: list[ServerProcess] = []
        for name in ("one", "two"):
            folder: Path = tmp_path_factory.mktemp(name)
            server = ServerProcess(folder, engine.url)
            running.callback(server.kill)
            server.start()
            servers.append(server)
        yield servers


async def produce(log: Log, who: str, until: asyncio.Event) -> int:
    """Number after number until the event; how many."""
    number = 0
    while not until.is_set():
        await insist(log, RUN, notes(RUN, [number, number + 1]), Producer(who, 0, number + 1))
        number += 2
    return number


async def follow(subscription: Subscription, begun: list[Record]) -> list[Record]:
    return [*begun, *await collect(subscription)]


async def roam(logs: list[Log]) -> list[Record]:
    """Follow the run a few records at a time, through another server each time."""
    seen: list[Record] = []
    while not (seen and seen[-1].is_terminal):
        log = logs[len(seen) % len(logs)]
        after = seen[-1].cursor if seen else None
        with contextlib.suppress(LogUnavailable):
            async with subscribe(log, RUN, after=after) as some:
                async for record in some:
                    seen.append(record)
                    if len(seen) % 7 == 0:
                        break
    return seen


async def kill(rng: random.Random, victims: list[Engine], times: int) -> None:
    chosen = rng.sample(victims, len(victims))  # each of them at least once
    chosen += rng.choices(victims, k=times - len(victims))
    for victim in chosen:
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(rng.uniform(0, PAUSE_S_MAX))  # it is away for a while
        await asyncio.to_thread(victim.start)
        await asyncio.sleep(rng.uniform(0, PAUSE_S_MAX))


# (Comparing all records of the long one takes a moment.)
LONG = [pytest.mark.soak, pytest.mark.allow_blocking]


@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=LONG)])
async def test_random_kills_of_servers_and_engine_lose_and_double_nothing(
    engine: EngineServer, servers: list[ServerProcess], kills: int
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    report(f"seed {seed}")
    logs = [await asyncio.to_thread(open_log, server.url) for server in servers]
    async with asyncio.timeout(HANG_S * (kills + 1)):
        await logs[0].open(RUN, producer=None, workflow="w")
        enough = asyncio.Event()
        writers = [
            asyncio.ensure_future(produce(log, who, enough))
            for log, who in zip(logs, "ab", strict=True)
        ]
        subscriptions = [subscribe(log, RUN) for log in logs]
        # (Whoever begins while nobody answers is told so.)
        begun = [await collect(subscription, 1) for subscription in subscriptions]
        followers = [
            asyncio.ensure_future(follow(*one)) for one in zip(subscriptions, begun, strict=True)
        ]
        followers.append(asyncio.ensure_future(roam(logs)))
        await kill(random.Random(seed), [*servers, engine], kills)
        enough.set()
        counts = await asyncio.gather(*writers)
        await insist(logs[1], RUN, [ending(RUN)], Producer("end", 0, 1))
        for seen in await asyncio.gather(*followers):
            assert [record.seq for record in seen] == list(range(1, sum(counts) + 2))
            numbers = sorted(record.data["n"] for record in seen[:-1])
            assert numbers == sorted(n for count in counts for n in range(count))
    for log in logs:
        await log.aclose()
