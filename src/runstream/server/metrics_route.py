"""`GET /metrics`: the figures of this server process, for Prometheus and `runstream top`."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from .access import Principal
from .metrics import CONTENT_TYPE
from .site import Site


async def get_metrics(site: Site, _principal: Principal, _request: Request) -> Response:
    """The route asks for the permission `metrics`: figures tell of all runs."""
    return Response(site.metrics.expose(), media_type=None, headers={"Content-Type": CONTENT_TYPE})
