"""Mistral Workflows: a Task whose list grows to 2 000, the pattern of their documentation.

Real: Task, its JSON patches, the background publisher, batching, the HTTP client's own work.
Stubbed: the activity (Temporal's `ActivityEnvironment`, no server), the HTTP transport (answers at
once); no trace exporter is configured.
"""

import asyncio
import json
import time
from importlib.metadata import version
from typing import Any

import httpx  # type: ignore[import, unused-ignore]
from mistralai.workflows import task
from mistralai.workflows.core._events.event_context import BackgroundEventPublisher, EventContext
from mistralai.workflows.worker_client.sdk import PrivateWorkerClient
from temporalio.testing import ActivityEnvironment

from benchmarks.measure import arguments, emit, max_rss_mib


class Server:
    """The far side of the HTTP transport: answers at once and keeps what it was sent."""

    def __init__(self) -> None:
        self.requests = 0
        self.deltas: list[Any] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        """Hand out the token that the SDK asks for first, then accept every batch."""
        if request.url.path.endswith("event-route-token"):
            return httpx.Response(200, json={"route_token": "t", "expires_in_seconds": 3600})
        self.requests += 1
        body = json.loads(request.content)
        for event in body.get("events") or [body["event"]]:
            if event["event_type"] == "CUSTOM_TASK_IN_PROGRESS":
                self.deltas.append(event["attributes"]["payload"]["value"])
        return httpx.Response(200, json={"status": "ok"})


async def grow(count: int) -> float:
    """The activity: `count` updates; returns the seconds until the last one was accepted."""
    start = time.perf_counter()
    async with task("token-stream", state={"tokens": []}) as live:
        for index in range(count):
            token = f"token{index:05}"
            await live.update_state({"tokens": live.state["tokens"] + [token]})
        return time.perf_counter() - start


async def measure(count: int) -> None:
    server = Server()
    http = httpx.AsyncClient(transport=httpx.MockTransport(server.answer))
    client = PrivateWorkerClient("http://peer.invalid", async_client=http)
    async with http, EventContext(client.events, worker_client=client) as context:
        # What their activity interceptor does around an activity.
        publisher = BackgroundEventPublisher(context)
        BackgroundEventPublisher.set_current(publisher)
        start = time.perf_counter()
        accepted = await ActivityEnvironment().run(grow, count)
        await publisher.drain()
        sent = time.perf_counter() - start
        await publisher.shutdown()
    assert server.deltas, "the SDK sent nothing; its log says why"
    sizes = [len(json.dumps(delta)) for delta in server.deltas]
    emit(
        "mistral_task",
        updates_per_s=round(count / sent),
        updates_per_s_before_sending=round(count / accepted),
        sent=count,
        received=len(server.deltas),
        in_order=[delta[0]["path"] for delta in server.deltas]
        == [f"/tokens/{index}" for index in range(count)],
        http_requests=server.requests,
        delta_bytes_first=sizes[0],
        delta_bytes_last=sizes[-1],
        max_rss_mib=max_rss_mib(),
        version=version("mistralai-workflows"),
        note="stubbed: HTTP transport (no network, nothing stored), Temporal; no trace export",
    )


if __name__ == "__main__":
    asyncio.run(measure(200 if arguments(__doc__).parse_args().quick else 2000))
