"""`POST /v1/runs/{run_id}/tokens`: a run token, for a page to follow one run."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..api import JSON, RunToken, TokenRequest
from ..errors import InvalidInput
from ..wire import rfc3339
from .access import Principal
from .site import Site


async def create_token(site: Site, principal: Principal, request: Request) -> Response:
    """Hand out a token that reads this run for a short while. The body may be empty.

    Raises:
        Forbidden: who asks may not read the run. Whether it exists is not looked up: a page may
            wait for a run that is yet to start.
        InvalidInput: the body is not a TokenRequest.
    """
    run_id: str = request.path_params["run_id"]
    principal.require("runs:read", run_id)
    body = await request.body()
    try:
        wish = msgspec.json.decode(body, type=TokenRequest) if body else TokenRequest()
    except (msgspec.MsgspecError, UnicodeError) as error:
        raise InvalidInput(f"the body is not a token request: {error}") from None
    token, expires = site.access.mint(principal, run_id, wish.ttl_s)
    answer = RunToken(token=token, expires=rfc3339(int(expires * 1_000_000)))
    # A token is as good as a key for a while: no cache may keep it.
    return Response(
        msgspec.json.encode(answer), 201, {"Cache-Control": "no-store"}, media_type=JSON
    )
