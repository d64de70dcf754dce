"""A server on an engine: many streams, few connections."""

from __future__ import annotations

import asyncio
from collections.abc import Generator

import pytest

from runstream.conformance.check import ending, notes, subscribe
from runstream.log import Log
from runstream.logs import open_log
from server_process import running_server
from services.log_engine import LogEngine

STREAMS = 500
# A guard against hanging.
HANG_S = 120.0


@pytest.fixture
def server_url(engine: LogEngine, tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    with running_server(tmp_path_factory.mktemp("server"), engine.url) as server:
        yield server.url


async def test_one_server_follows_500_active_streams_over_a_bounded_number_of_connections(
    engine: LogEngine, server_url: str
) -> None:
    seen = asyncio.Semaphore(0)

    async def follow(log: Log, run: str) -> list[int]:
        seqs: list[int] = []
        async for record in subscribe(log, run):
            seqs.append(record.seq)
            seen.release()
        return seqs

    runs = [f"run-{n}" for n in range(STREAMS)]
    log = await asyncio.to_thread(open_log, server_url)
    try:
        async with asyncio.timeout(HANG_S):
            await asyncio.gather(*(log.open(run, producer=None, workflow="w") for run in runs))
            following = [asyncio.ensure_future(follow(log, run)) for run in runs]
            for turn in range(2):
                await asyncio.gather(*(log.append(run, notes(run, [turn])) for run in runs))
                for _ in runs:
                    await seen.acquire()
                count = await asyncio.to_thread(engine.connections)
                assert 0 < count <= engine.connections_max
            await asyncio.gather(*(log.append(run, [ending(run)], final=True) for run in runs))
            assert await asyncio.gather(*following) == [[1, 2, 3]] * STREAMS
    finally:
        await log.aclose()
