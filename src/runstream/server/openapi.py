"""The OpenAPI 3.1 document, made from the routes and the structs that they read and write."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any, Final

import msgspec

from ..api import JSON
from ..problem import MEDIA_TYPE, Problem
from ..record import RUN_ID_LENGTH_MAX
from .route import RUN_ID, Reply, Route

_REFERENCE: Final = "#/components/schemas/{name}"
_RUN_ID: Final = {
    "type": "string",
    "pattern": "^[A-Za-z0-9][A-Za-z0-9._:~-]*$",
    "maxLength": RUN_ID_LENGTH_MAX,
}
_SECURITY: Final[list[dict[str, list[str]]]] = [{"bearer": []}, {"run_token": []}]
_SCHEMES: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "A key or a JWT"},
    "run_token": {
        "type": "apiKey",
        "in": "query",
        "name": "access_token",
        "description": "A short-lived token that reads one run",
    },
}


def make_document(routes: Iterable[Route], prefix: str = "") -> bytes:
    """The document as JSON. `prefix` is where the app is mounted."""
    routes = tuple(routes)
    bodies = {
        body
        for route in routes
        for body in (route.body, *(reply.body for reply in route.answers))
        if body is not None
    }
    _, components = msgspec.json.schema_components(
        sorted({*bodies, Problem}, key=lambda one: one.__name__), ref_template=_REFERENCE
    )
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.pattern, {})[route.method.lower()] = _operation(route)
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Runstream", "version": version("runstream")},
        "servers": [{"url": prefix or "/"}],
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }
    return msgspec.json.encode(document)


def _operation(route: Route) -> dict[str, Any]:
    endpoint = route.cold or route.raw
    operation: dict[str, Any] = {
        "operationId": getattr(endpoint, "__name__", route.summary),
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": {
            **{str(reply.status): _response(reply) for reply in route.answers},
            "default": {
                "description": "A problem (RFC 9457)",
                "content": {MEDIA_TYPE: {"schema": _schema(Problem)}},
            },
        },
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": route.body_required,
            "content": {JSON: {"schema": _schema(route.body)}},
        }
    if route.permission is not None:
        operation["security"] = _SECURITY
        operation["description"] = f"Needs the permission `{route.permission}`."
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    parts = [part.strip("{}") for part in route.pattern.split("/") if part.startswith("{")]
    in_path = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _RUN_ID if name == RUN_ID else {"type": "string", "minLength": 1},
        }
        for name in parts
    ]
    others = [
        {
            "name": one.name,
            "in": one.place,
            "description": one.description,
            "schema": dict(one.schema),
        }
        for one in route.parameters
    ]
    return [*in_path, *others]


def _response(reply: Reply) -> dict[str, Any]:
    content: dict[str, Any] = {kind: {} for kind in reply.media_types}
    if reply.body is not None:
        content[JSON] = {"schema": _schema(reply.body)}
    return {"description": reply.meaning, **({"content": content} if content else {})}


def _schema(body: type[msgspec.Struct]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(name=body.__name__)}
