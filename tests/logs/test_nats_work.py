"""What a process on a NATS log does when it has much to do: more runs than it keeps in memory, long histories
of small messages, an early end, a fork.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

import pytest

from opened_log import opened
from runstream import connect, flush, process, publish, start_run
from runstream.conformance.check import (
    collect,
    ending,
    new_name,
    notes,
    numbers_of,
    read_all,
    subscribe,
)
from runstream.errors import LogClosed, LogUnavailable
from runstream.log import Log, Producer
from runstream.logs import nats

# A guard against hanging.
HANG_S: Final = 120.0


async def test_streams_that_are_forgotten_while_they_work_lose_and_double_nothing(
    nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats, "STREAMS_MAX", 2)
    runs = [new_name() for _ in range(8)]

    async def write(log: Log, run: str, who: str) -> None:
        for number in range(0, 40, 2):
            batch = notes(run, [number, number + 1])
            await log.append(run, batch, producer=Producer(who, 0, number + 1))

    async with asyncio.timeout(HANG_S), opened(nats_url) as log:
        for run in runs:
            await log.open(run, producer=None, workflow="w")
        following = [asyncio.ensure_future(collect(subscribe(log, run))) for run in runs]
        await asyncio.gather(*(write(log, run, who) for who in "ab" for run in runs))
        await asyncio.gather(*(log.append(run, [ending(run)], final=True) for run in runs))
        for seen in await asyncio.gather(*following):
            assert [record.seq for record in seen] == list(range(1, 82))
            assert sorted(numbers_of(seen[:-1])) == sorted([*range(40), *range(40)])


async def test_a_history_of_single_records_is_read_a_page_at_a_time(nats_url: str) -> None:
    run, count = new_name(), 3000
    async with asyncio.timeout(HANG_S), opened(nats_url) as log, opened(nats_url) as other:
        await log.open(run, producer=None, workflow="w")
        # Each in a message of its own.
        for number in range(count):
            await log.append(run, notes(run, [number]))
        assert numbers_of(await read_all(other, run)) == list(range(count))
        for after in (count // 2, 7, count - 1):
            assert numbers_of(await read_all(other, run, after=after)) == list(range(after, count))


async def test_a_log_that_is_closed_at_work_answers_everybody(nats_url: str) -> None:
    run = new_name()
    async with asyncio.timeout(HANG_S), opened(nats_url) as log, opened(nats_url) as other:
        await log.open(run, producer=None, workflow="w")
        calls = [asyncio.ensure_future(log.append(run, notes(run, [n]))) for n in range(300)]
        calls[0].add_done_callback(lambda _: closing.set())
        closing = asyncio.Event()
        await closing.wait()
        await log.aclose()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        refused = [one for one in outcomes if isinstance(one, BaseException)]
        assert all(isinstance(one, LogClosed | LogUnavailable) for one in refused)
        # What was acknowledged is there, whoever asks.
        stored = set(numbers_of(await read_all(other, run)))
        for number, outcome in enumerate(outcomes):
            assert isinstance(outcome, BaseException) or number in stored


# (From Python 3.12 on, forking with threads is worth a warning, which is what is tested here.)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.allow_blocking  # it runs in plain code
def test_a_forked_child_has_a_line_of_its_own(nats_url: str) -> None:
    run_id = new_name()
    try:
        with start_run("w", run_id=run_id, url=nats_url):
            for child in range(3):
                for n in range(50):
                    publish({"n": 100 * child + n})
                pid = os.fork()
                if pid == 0:
                    publish({"n": 1000 + child})
                    os._exit(0 if flush(HANG_S) else 1)
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        with connect(nats_url) as streams:
            records = list(streams.subscribe(run_id, follow=False))
    finally:
        process.close_publishers()
    numbers = [record.data["n"] for record in records if record.kind == "event"]
    ours = [100 * child + n for child in range(3) for n in range(50)]
    assert [n for n in numbers if n < 1000] == ours
    assert sorted(n for n in numbers if n >= 1000) == [1000, 1001, 1002]
