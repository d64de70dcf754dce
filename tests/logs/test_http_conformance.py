"""A log behind a server keeps every promise: the suite, through HTTP, to memory and to SQLite."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator

import pytest

from runstream.conformance import CHECKS, log_factory
from runstream.conformance.check import CHECK_S_MAX, Check, NotApplicable
from server_process import ServerProcess, running_server

LOGS = ("memory", "sqlite")
# Some checks make ten thousand requests: seconds, or a minute on a machine with much else to do.
HANGS_S = 4 * CHECK_S_MAX


@pytest.fixture(scope="module", params=LOGS)
def server_of(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Generator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    url = {"memory": "memory:", "sqlite": f"sqlite:{folder}/events.db"}[request.param]
    with running_server(folder, url) as server:
        yield server


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: f"{check.area}-{check.name}")
async def test_a_log_behind_a_server_keeps_the_promise(
    check: Check, server_of: ServerProcess
) -> None:
    # What only some logs can do (removing a single run, say) is not offered over HTTP.
    excused = (NotApplicable,) if check.area == "removal" else ()
    with contextlib.suppress(*excused):
        async with asyncio.timeout(HANGS_S):
            await check.run(log_factory(server_of.url))
