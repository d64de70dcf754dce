"""What a subscriber hears when the log under the server fails, forgets the run, or may only be read."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from asgi_call import Answer, call
from runstream.errors import LogReadOnly, LogUnavailable, RunNotFound
from runstream.log import READ_LIMIT_DEFAULT, Lease, LeaseClaim, Page, RunInfo
from runstream.logs.memory import MemoryLog
from runstream.record import Cursor, make_draft
from runstream.server.app import create_app

# A guard against hanging.
END_S_MAX = 20.0


class FailingLog(MemoryLog):
    """A log that answers everything with `error`, once it is set, and may only be read."""

    error: Exception | None = None

    async def read(self, run_id: str, *, after: Cursor, limit: int = READ_LIMIT_DEFAULT) -> Page:
        if self.error is not None:
            raise self.error
        return await super().read(run_id, after=after, limit=limit)

    async def expire(self, run_id: str, *, lease: Lease) -> RunInfo:
        raise LogReadOnly(f"only read here: {run_id} {lease}")


async def follow_until(log: FailingLog, error: Exception | None) -> Answer:
    """Follow a run that has one record; when that has arrived, the log fails."""
    tasks: list[asyncio.Task[None]] = []

    async def fail() -> None:
        log.error = error
        # Whoever waits looks again.
        await log.append("r", [make_draft("r", "note", {})])

    def on_body() -> None:
        if error is not None and not tasks:
            tasks.append(asyncio.create_task(fail()))

    app = create_app(log)
    async with asyncio.timeout(END_S_MAX):
        answer = await call(app, "GET", "/v1/runs/r/events", on_body=on_body)
    await asyncio.gather(*tasks)
    await app.stop()
    await log.aclose()
    return answer


def last_frames(answer: Answer, count: int) -> list[dict[str, str]]:
    blocks = answer.body.decode().split("\n\n")[:-1][-count:]
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]


async def test_a_log_that_fails_ends_the_stream_with_when_to_come_back() -> None:
    log = FailingLog()
    await log.open("r", producer=None, workflow="w")
    (error,) = last_frames(await follow_until(log, LogUnavailable("the disk is gone")), 1)
    assert error["event"] == "stream.error"
    assert json.loads(error["data"])["code"] == "log_unavailable"
    assert int(error["retry"]) >= 1000


async def test_a_mistake_of_the_server_ends_the_stream_and_says_nothing_of_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log = FailingLog()
    await log.open("r", producer=None, workflow="w")
    with caplog.at_level(logging.ERROR):
        (error,) = last_frames(await follow_until(log, KeyError("a secret")), 1)
    assert error["event"] == "stream.error"
    assert json.loads(error["data"])["status"] == 500
    assert "secret" not in error["data"]
    assert "a secret" in caplog.text


async def test_a_run_that_is_removed_meanwhile_is_a_gap_without_an_end() -> None:
    log = FailingLog()
    await log.open("r", producer=None, workflow="w")
    gap, end = last_frames(await follow_until(log, RunNotFound("no run r")), 2)
    assert gap["event"] == "stream.gap"
    assert json.loads(gap["data"])["data"]["reason"] == "removed"
    assert (end["event"], json.loads(end["data"])) == ("stream.end", {"reason": "removed"})


async def test_a_run_whose_process_died_ends_even_if_the_log_may_only_be_read() -> None:
    log = FailingLog()
    claim = LeaseClaim(lease_s=0.05)
    await log.open("r", producer="p", workflow="w", claim=claim)
    lost, end = last_frames(await follow_until(log, None), 2)
    assert lost["event"] == "run.lost"
    assert "seq" not in json.loads(lost["data"])
    assert lost["id"] == end["id"]
    assert json.loads(end["data"]) == {"reason": "ended"}
