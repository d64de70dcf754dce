"""Server-sent events: frames out and frames in, as the WHATWG's HTML standard defines the format.

A record's frame has its cursor as `id`, its kind as `event` and its envelope as `data`. Control frames
(`stream.gap`, `stream.end`, `stream.error`, `stream.cursor`) take no seq.
"""

from __future__ import annotations

from typing import Final

from .record import Record
from .wire import encode_record

HEARTBEAT: Final = b": \n\n"


def encode_frame(record: Record) -> bytes:
    """One record, or gap, as a frame."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        record.cursor.encode(),
        record.kind.encode(),
        encode_record(record),
    )
