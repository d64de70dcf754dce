from __future__ import annotations

import subprocess
import sys
import textwrap

# The provider of traces is one per process and set once: each case has a process of its own.
PROGRAM = """
import asyncio, sys
sys.path.insert(0, "tests")
from asgi_call import call
from runstream.logs.memory import MemoryLog
from runstream.server.app import create_app
from runstream.server.tracing import find_tracing

assert find_tracing() is None  # nobody has configured it

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

spans = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
JSON = {"content-type": "application/json", "accept": "text/event-stream"}
PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}

async def main():
    app = create_app(MemoryLog())
    await call(app, "PUT", "/v1/runs/r", JSON, b'{"workflow": "w"}')
    await call(app, "POST", "/v1/runs/r/events", {**JSON, **PARENT},
               b'{"events": [{"kind": "run.completed", "data": {}}], "final": true}')
    await call(app, "GET", "/v1/runs/r/events", {**JSON, **PARENT}, query="access_token=secret")
    await call(app, "GET", "/nowhere", PARENT)
    assert trace.get_current_span() is trace.INVALID_SPAN

asyncio.run(main())
opened, append, subscribe, nowhere = spans.get_finished_spans()
assert opened.parent is None
for span in (append, subscribe, nowhere):
    assert format(span.context.trace_id, "032x") == "0af7651916cd43dd8448eb211c80319c"
    assert format(span.parent.span_id, "016x") == "b7ad6b7169203331"
    assert span.kind is trace.SpanKind.SERVER
assert append.name == "POST /v1/runs/{run_id}/events"
assert dict(append.attributes)["runstream.run_id"] == "r"
assert dict(append.attributes)["http.response.status_code"] == 200
assert subscribe.name == "GET /v1/runs/{run_id}/events"
assert dict(nowhere.attributes)["http.response.status_code"] == 404
assert "secret" not in "".join(span.to_json() for span in spans.get_finished_spans())
"""

WITHOUT = """
import sys
sys.modules["opentelemetry.trace"] = None  # as if it were not installed
from runstream.server.tracing import find_tracing
assert find_tracing() is None
"""


def run(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_requests_are_spans_in_the_trace_of_their_sender() -> None:
    run(PROGRAM)


def test_without_the_api_package_nothing_is_traced() -> None:
    run(WITHOUT)
