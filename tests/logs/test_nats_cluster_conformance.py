"""The NATS log keeps every promise in a cluster, with several replicas of each stream."""

from __future__ import annotations

import asyncio

import pytest
from _pytest.mark import ParameterSet

from runstream.conformance import CHECKS, log_factory
from runstream.conformance.check import REMOTE_CHECK_S_MAX, Check
from services.nats import NatsCluster

# What is another thing where messages are stored that do not count; the rest is asked in `make soak`.
AREAS = ("order", "retry", "removal")


def marked(check: Check) -> ParameterSet:
    marks = [] if check.area in AREAS else [pytest.mark.soak]
    return pytest.param(check, id=f"{check.area}-{check.name}", marks=marks)


@pytest.mark.parametrize("check", [marked(check) for check in CHECKS])
async def test_a_replicated_nats_log_keeps_the_promise(
    check: Check, nats_cluster: NatsCluster
) -> None:
    async with asyncio.timeout(REMOTE_CHECK_S_MAX):
        await check.run(log_factory(nats_cluster.url))
