"""Finding the route of a request: a tree of path segments, also under a prefix."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.types import Scope

from .answers import Refused
from .route import Route


class _Node:
    """One place in the tree of paths; `variable` is the name of the part that may be anything."""

    __slots__ = ("other", "parts", "routes", "variable")

    def __init__(self) -> None:
        self.parts: dict[str, _Node] = {}
        self.variable: str | None = None
        self.other: _Node | None = None
        self.routes: dict[str, Route] = {}


class Router:
    """Built once from the table."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self._root = _Node()
        for route in routes:
            self._place(route.pattern).routes[route.method] = route

    def find(self, scope: Scope) -> tuple[Route, dict[str, str]]:
        """The route, and the variable parts of its path.

        Raises:
            Refused: no such path, or not with this method.
        """
        node = self._root
        found: dict[str, str] = {}
        for part in _path(scope).split("/")[1:]:
            inner = node.parts.get(part)
            if inner is None and node.other is not None and node.variable is not None and part:
                inner = node.other
                found[node.variable] = part
            if inner is None:
                raise _unknown(scope)
            node = inner
        if not node.routes:
            raise _unknown(scope)
        method = scope["method"]
        route = node.routes.get(method)
        if route is None and method == "HEAD":
            # The server in front leaves out the body.
            route = node.routes.get("GET")
            if route is not None and route.raw is not None:
                route = None
        if route is None:
            known = ", ".join(sorted(node.routes))
            raise Refused(
                "method_not_allowed",
                f"this path has {known}, not {method}",
                [(b"allow", known.encode())],
            )
        return route, found

    def _place(self, pattern: str) -> _Node:
        node = self._root
        for part in pattern.split("/")[1:]:
            if part.startswith("{"):
                node.variable = part.strip("{}")
                node.other = node.other or _Node()
                node = node.other
            else:
                node = node.parts.setdefault(part, _Node())
        return node


def _path(scope: Scope) -> str:
    """The path below the prefix that the app is mounted under."""
    path: str = scope["path"]
    prefix: str = scope.get("root_path", "")
    if prefix and (path == prefix or path.startswith(prefix + "/")):
        return path[len(prefix) :]
    return path


def _unknown(scope: Scope) -> Refused:
    return Refused("not_found", f"there is no {_path(scope)!r} here; /openapi.json lists what is")
