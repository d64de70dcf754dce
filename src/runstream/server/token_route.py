"""`POST /v1/runs/{run_id}/tokens`: a run token, for a page to follow one run."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..api import RunToken, TokenRequest
from ..wire import rfc3339
from .access import Principal
from .answers import json_response
from .bodies import decode, read_body
from .site import Site

_REQUEST = msgspec.json.Decoder(TokenRequest)


async def create_token(site: Site, principal: Principal, request: Request) -> Response:
    """Hand out a token that reads this run for a short while. The body may be empty.

    Raises:
        Forbidden: who asks may not read the run. Whether it exists is not looked up: a page may
            wait for a run that is yet to start.
        InvalidInput: the body is not a TokenRequest.
    """
    run_id: str = request.path_params["run_id"]
    principal.require("runs:read", run_id)
    body = await read_body(site, request.scope, request.receive, optional=True)
    wish = decode(body, _REQUEST) if body else TokenRequest()
    token, expires = site.access.mint(principal, run_id, wish.ttl_s)
    answer = RunToken(token=token, expires=rfc3339(int(expires * 1_000_000)))
    return json_response(answer, 201)
