"""A JSON page of records, until the routes that follow a run take its place."""

from __future__ import annotations

from starlette.types import Receive, Scope, Send

from ..api import JSON
from ..log import Page
from ..record import Cursor, Record
from ..wire import encode_record
from .access import Principal
from .answers import send_body
from .query import Query
from .site import Site


async def follow_events(
    site: Site, _principal: Principal, run_id: str, scope: Scope, _receive: Receive, send: Send
) -> None:
    """One page of the records behind `after`."""
    after = Query(scope, "after").text("after")
    info = await site.log.info(run_id)
    page: Page = await site.log.read(
        run_id, after=Cursor(info.generation, 0) if after is None else Cursor.parse(after)
    )
    records = [
        encode_record(Record(seq, draft, info.origin))
        for seq, draft in enumerate(page.drafts, page.first_seq)
    ]
    await send_body(send, 200, b'{"records":[%b]}' % b",".join(records), JSON.encode())
