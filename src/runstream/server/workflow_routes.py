"""The routes of the workflows that a server starts: their list with JSON Schemas, and new runs."""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..api import V1, StartRun, WorkflowList
from ..errors import Forbidden, InvalidInput
from ..payload import decode_payload
from ..record import check_run_id
from .access import Principal
from .answers import json_response
from .bodies import decode, read_body
from .runs import run_body
from .site import Site

_START: Final = msgspec.json.Decoder(StartRun)


async def list_workflows(site: Site, _principal: Principal, _request: Request) -> Response:
    return json_response(WorkflowList(workflows=site.workflows.bodies()))


async def start_workflow(site: Site, principal: Principal, request: Request) -> Response:
    """A caller who may start some runs only names one of them in the body."""
    asked = await _asked(site, principal, request)
    given = {name: decode_payload(value) for name, value in asked.input.items()}
    handler = await site.workflows.start(request.path_params["workflow"], given, asked.run_id)
    info = await handler.info()
    response = json_response(
        run_body(info, with_lease=principal.allows("runs:write", info.run_id)), 201
    )
    response.headers["location"] = f"{request.scope.get('root_path', '')}{V1}/runs/{info.run_id}"
    return response


async def _asked(site: Site, principal: Principal, request: Request) -> StartRun:
    try:
        principal.require("runs:start")
        narrow: Forbidden | None = None
    except Forbidden as error:
        narrow = error
    try:
        body = await read_body(site, request.scope, request.receive, optional=True)
        asked = decode(body, _START) if body else StartRun()
        if asked.run_id is not None:
            check_run_id(asked.run_id)
    except InvalidInput:
        if narrow is not None:
            raise narrow from None
        raise
    if narrow is not None:
        if asked.run_id is None:
            raise narrow
        principal.require("runs:start", asked.run_id)
    return asked
