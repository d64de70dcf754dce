"""One line per request in the server's log, at level INFO: who asked for what, and what became of it.

What comes behind the question mark of an address is left out: it may hold a token.
"""

from __future__ import annotations

import logging
import re
from typing import Final

from starlette.types import Scope

from .log_lines import FIELDS

# Where the app leaves the name of a request's principal.
PRINCIPAL: Final = "runstream.principal"

# Somebody may have put one where it doesn't belong: a key, a run token, a JWT.
_TOKENS: Final = re.compile(r"rs[kt]_[\w.-]+|eyJ[\w-]*\.[\w.-]*")

# What is left to be told of a request at its end.
_TOLD: Final = ("method", "path", "client", PRINCIPAL)

logger = logging.getLogger("runstream.requests")


def log_request(scope: Scope, route: str, status: int, seconds: float) -> None:
    """The request is done. Costs next to nothing while the level is above INFO.

    `route` is the pattern; status 0: the client was gone before its answer began.
    """
    if not logger.isEnabledFor(logging.INFO):
        return
    client = scope.get("client")
    fields: dict[str, object] = {
        "method": scope["method"],
        "path": _TOKENS.sub("…", scope["path"]),
        "route": route,
        "status": status,
        "seconds": round(seconds, 6),
        "who": scope.get(PRINCIPAL, ""),
        "client": client[0] if client else "",
    }
    logger.info("request", extra={FIELDS: fields})


def shorten(scope: Scope) -> None:
    """Leave in a scope what `log_request` needs: the rest, headers above all, is kilobytes for each of
    thousands of requests that last for hours.
    """
    told = {name: scope[name] for name in _TOLD if name in scope}
    scope.clear()
    scope.update(told)
