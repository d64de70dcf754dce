"""The OpenAPI document: it is valid, it says all that the routes do, and what it says holds."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator

from runstream.server.openapi import make_document
from runstream.server.route import RUN_ID, Route
from runstream.server.routes import ROUTES
from server_process import ServerProcess, running_server

# Invented requests for each route and mode.
EXAMPLES = 40
# The others take nothing that could be wrong.
INVENTABLE = [
    route for route in ROUTES if RUN_ID in route.pattern or route.parameters or route.body
]


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(make_document(ROUTES))
    return found


def test_the_document_is_valid(document: dict[str, Any]) -> None:
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_every_route_is_in_the_document_with_an_answer(document: dict[str, Any]) -> None:
    for route in ROUTES:
        operation = document["paths"][route.pattern][route.method.lower()]
        good = [status for status in operation["responses"] if status.startswith("2")]
        assert good, route
        assert ("security" in operation) == (route.permission is not None)
    ids = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(ids) == len(set(ids))


def test_the_server_serves_it_to_everyone(
    shared_server: ServerProcess, document: dict[str, Any]
) -> None:
    answer = shared_server.call("GET", "/openapi.json")
    assert (answer.status, answer.json) == (200, document)


@pytest.fixture(scope="module")
def invented(tmp_path_factory: pytest.TempPathFactory, document: dict[str, Any]) -> Generator[Any]:
    """The document of a server, as schemathesis reads it."""
    folder = tmp_path_factory.mktemp("invented")
    with running_server(folder, f"sqlite:{folder}/events.db") as server:
        schema: Any = schemathesis.openapi.from_dict(document)  # its own types are half known
        schema.config.update(base_url=server.url)
        # Run ids are invented, too; this is the first one that comes to its mind.
        server.call("PUT", "/v1/runs/0", {"workflow": "w"})
        yield schema
        assert "failed" not in server.output, server.output[-4000:]
        assert server.call("GET", "/healthz").status == 200


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
@pytest.mark.parametrize("route", INVENTABLE, ids=lambda route: f"{route.method} {route.pattern}")
def test_the_server_never_fails_whatever_is_invented_for_a_route(
    invented: Any,
    route: Route,
    mode: schemathesis.GenerationMode,
) -> None:
    """Schemathesis invents requests that fit the document, and others that just don't."""
    operation = invented[route.pattern][route.method]
    with requests.Session() as session:

        @given(case=operation.as_strategy(generation_mode=mode))
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            derandomize=True,
            database=None,
            print_blob=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
        )
        def ask(case: Any) -> None:
            call: dict[str, Any] = case.as_transport_kwargs()
            query: dict[str, Any] = call.get("params") or {}
            if isinstance(query.get("wait"), (int, float)):
                query["wait"] = min(query["wait"], 0.01)  # nobody has the time
            # What a stream goes on to say is left unread.
            with session.request(**call, stream=True, timeout=30) as answer:
                assert answer.status_code < 500, (call, answer.text)

        ask()
