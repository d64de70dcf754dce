"""sse-starlette on uvicorn, with a queue for each subscriber as its documentation shows.

The same load as ours. ``PORT`` as the only argument is the server.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator

import uvicorn
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.measure import arguments, emit
from benchmarks.served import serving_module
from benchmarks.sse_client import Crowd, Publisher, fan_out

SUBSCRIBERS = 1000
BATCH = 16


def serve(port: int) -> None:
    queues: set[asyncio.Queue[dict[str, object]]] = set()
    last = 0

    async def follow(_request: Request) -> EventSourceResponse:
        queue: asyncio.Queue[dict[str, object]] = asyncio.Queue()

        async def frames() -> AsyncGenerator[ServerSentEvent]:
            queues.add(queue)
            try:
                yield ServerSentEvent(data="{}", event="start")
                while True:
                    event = await queue.get()
                    yield ServerSentEvent(
                        data=json.dumps(event),
                        event=str(event["kind"]),
                        id=str(event["seq"]),
                        sep="\n",
                    )
            finally:
                queues.discard(queue)

        return EventSourceResponse(frames())

    async def publish(request: Request) -> JSONResponse:
        nonlocal last
        for event in (await request.json())["events"]:
            last += 1
            numbered = {"seq": last, "run_id": "run", **event}
            for queue in queues:
                queue.put_nowait(numbered)
        return JSONResponse({})

    async def create(_request: Request) -> JSONResponse:
        return JSONResponse({})

    app = Starlette(
        routes=[
            Route("/v1/runs/run/events", follow, methods=["GET"]),
            Route("/v1/runs/run/events", publish, methods=["POST"]),
            Route("/v1/runs/run", create, methods=["PUT"]),
        ]
    )
    uvicorn.run(app, port=port, log_level="error")


def measure(batches: int, size: int) -> float:
    with serving_module("benchmarks.peers.sse_starlette_fanout") as served:
        publisher = Publisher(served.port, "run")
        crowd = Crowd(served.port, "/v1/runs/run/events", SUBSCRIBERS)
        try:
            crowd.wait_for_streams()
            fan_out(publisher, crowd, 3, size, SUBSCRIBERS)
            return fan_out(publisher, crowd, batches, size, SUBSCRIBERS)
        finally:
            crowd.close()


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    singles, batches = (10, 2) if args.quick else (50, 10)
    single = measure(singles, 1)
    emit(
        "sse_fanout",
        single_per_s=round(single),
        deliveries_per_s=round(measure(batches, BATCH)),
        note="each event is a frame of its own to the server, so more at once are not faster",
    )


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1].isdigit():
        serve(int(sys.argv[1]))
    else:
        main()
