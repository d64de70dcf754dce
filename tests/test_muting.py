"""A server that wants no records: the producer mutes itself, says so once, and asks again later."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest

from runstream import (
    StartEvent,
    StopEvent,
    Task,
    Workflow,
    attach,
    drain,
    process,
    publish,
    publisher_stats,
    start_run,
    step,
)
from scripted_server import Line, Request, Script, answer, problem, run_answer, scripted_server

RUN = json.loads(run_answer().partition(b"\r\n\r\n")[2])
OPENED = answer(200, {"run": RUN, "epoch": 1, "number": 0, "created": True})


@pytest.fixture(autouse=True)
def closed_publishers() -> Iterator[None]:
    yield
    process.close_publishers(timeout=0)


class Switch:
    """A server that refuses events until `refusal` is None; it remembers the kinds that it stored."""

    def __init__(self, refusal: bytes | None) -> None:
        self.refusal = refusal
        self.stored: list[str] = []
        self.refused = 0

    @property
    def script(self) -> Script:
        return self._answer

    async def _answer(self, request: Request, line: Line) -> None:
        if request.method == "PUT":
            await line.send(OPENED)
        elif not request.path.endswith("/events"):
            await line.send(answer(204))
        elif self.refusal is not None:
            self.refused += 1
            await line.send(self.refusal)
        else:
            kinds = [event["kind"] for event in json.loads(request.body)["events"]]
            first = len(self.stored) + 1
            self.stored += kinds
            stored = {"first_seq": first, "last_seq": len(self.stored), "duplicates": 0}
            await line.send(answer(200, stored))


class Greet(Workflow):
    @step
    async def greet(self, ev: StartEvent) -> StopEvent:
        await muted()
        return StopEvent(result="hello")


async def muted() -> None:
    async with asyncio.timeout(30):
        while not publisher_stats().muted:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("status", "code"), [(501, "streaming_off"), (401, "unauthorized"), (403, "forbidden")]
)
async def test_a_producer_that_is_not_wanted_drops_and_counts_without_a_storm(
    status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    switch = Switch(problem(status, code, "not wanted here"))
    async with scripted_server(switch.script) as server, attach("r1", url=server.url):
        publish({"n": 0})
        await muted()
        for number in range(1, 100):
            publish({"n": number})
        # Nobody waits for what will not be stored.
        assert not await drain()
        stats = publisher_stats()
        assert stats.muted
        assert stats.last_error is not None
        assert "not wanted here" in stats.last_error
        assert stats.dropped >= 99
        assert switch.refused == 1
    warned = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len([text for text in warned if "RUNSTREAM_TOKEN" in text]) == 1


async def test_a_muted_producer_asks_again_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstream.publisher.MUTED_S", 0.05)
    switch = Switch(problem(401, "unauthorized"))
    async with scripted_server(switch.script) as server:
        async with start_run("nightly", run_id="r1", url=server.url):
            await muted()
            publish({"n": 1})
            async with Task("progress", state={"done": 0}) as task:
                await task.update_state({"done": 1})
            switch.refusal = None
            async with asyncio.timeout(30):
                while publisher_stats().muted:
                    await asyncio.sleep(0.005)
            publish({"n": 2}, kind="again")
        before = publisher_stats().dropped
    assert switch.stored[0] == "run.started"
    assert [kind for kind in switch.stored if kind in {"event", "again"}] == ["again"]
    # What is no user's is never dropped.
    assert "task.completed" in switch.stored
    assert switch.stored[-1] == "run.completed"
    assert before >= 1


@pytest.mark.parametrize(("status", "code"), [(501, "streaming_off"), (401, "unauthorized")])
async def test_work_whose_records_are_not_wanted_is_done_all_the_same(
    status: int, code: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The ends do not wait until it is time to ask again.
    monkeypatch.setattr("runstream.publisher.MUTED_S", 600.0)
    switch = Switch(problem(status, code))
    async with scripted_server(switch.script) as server:
        async with start_run("nightly", run_id="r1", url=server.url) as run:
            await muted()
            run.set_result("done")
        assert await Greet("greet").run(url=server.url) == "hello"
    assert "could not be stored" in caplog.text
    assert publisher_stats().queued == 0
