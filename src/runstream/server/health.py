"""Health: whether the process lives, and whether it can serve."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from ..api import Health
from ..errors import RunstreamError
from .access import Principal
from .answers import json_response
from .site import Site

# A log that takes longer than this to name one run doesn't serve anybody.
LOG_ANSWER_S_MAX: Final = 2.0

logger = logging.getLogger(__name__)


async def get_live(_site: Site, _principal: Principal, _request: Request) -> Response:
    return json_response(Health(live=True))


async def get_ready(site: Site, _principal: Principal, _request: Request) -> Response:
    """503 while the log does not answer, and from the moment on when the server begins to stop."""
    if site.stopping.is_set():
        return _answer("stopping")
    try:
        async with asyncio.timeout(LOG_ANSWER_S_MAX):
            await site.log.list(limit=1)
    except TimeoutError:
        return _answer("the log does not answer")
    except RunstreamError as error:
        # (The error may name a path or an address: that is for the server's own log.)
        logger.warning("not ready: %s", error)
        return _answer(error.code)
    return _answer(None)


def _answer(reason: str | None) -> Response:
    body = Health(live=True, ready=reason is None, reason=reason)
    return json_response(body, 200 if reason is None else 503)
