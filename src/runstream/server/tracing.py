"""OpenTelemetry traces: one span per request, in the trace that its `traceparent` header names.

Only if the API package is there and somebody has configured a provider (the SDK, an agent); otherwise
nothing is done at all.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, Final, Protocol

from starlette.types import Scope

_NAME: Final = "runstream"
# Of an answer, from this status on the server itself has failed.
_FAILED: Final = 500


class RequestSpan(Protocol):
    """The span of one request under way."""

    def end(self, route: str, run_id: str | None, status: int) -> None:
        """The request is done; call it in the context that `begin` was called in."""
        ...


class Tracing:
    """Makes spans for requests. Used with a provider that is configured when it is made."""

    def __init__(self, trace: ModuleType, context: ModuleType, propagate: ModuleType) -> None:
        self._trace = trace
        self._context = context
        self._propagate = propagate
        self._tracer = trace.get_tracer(_NAME)

    def begin(self, scope: Scope) -> RequestSpan:
        """Start the span of a request, and make it the current one."""
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in {b"traceparent", b"tracestate", b"baggage"}
        }
        span = self._tracer.start_span(
            scope["method"],
            context=self._propagate.extract(headers),
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": scope["method"]},
        )
        token = self._context.attach(self._trace.set_span_in_context(span))
        return _Span(self._trace, self._context, span, token, scope["method"])


class _Span:
    def __init__(
        self, trace: ModuleType, context: ModuleType, span: Any, token: Any, method: str
    ) -> None:
        self._trace = trace
        self._context = context
        self._span = span
        self._token = token
        self._method = method

    def end(self, route: str, run_id: str | None, status: int) -> None:
        self._context.detach(self._token)
        self._span.update_name(f"{self._method} {route}")
        self._span.set_attribute("http.route", route)
        if run_id is not None:
            self._span.set_attribute("runstream.run_id", run_id)
        if status:
            self._span.set_attribute("http.response.status_code", status)
        if status >= _FAILED:
            self._span.set_status(self._trace.Status(self._trace.StatusCode.ERROR))
        self._span.end()


def find_tracing() -> Tracing | None:
    """None: the API package is not there, or nobody has configured where traces go."""
    try:
        trace = importlib.import_module("opentelemetry.trace")
        context = importlib.import_module("opentelemetry.context")
        propagate = importlib.import_module("opentelemetry.propagate")
    except ModuleNotFoundError:
        return None
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return None
    return Tracing(trace, context, propagate)
