"""Server-sent events: frames out, as the WHATWG's HTML standard defines the format.

A record's frame has its cursor as `id`, its kind as `event` and its envelope as `data`. Control frames
(`stream.gap`, `stream.end`, `stream.error`, `stream.cursor`) take no seq; their `id` is where reading
goes on. No payload, name or number can break a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from .record import Cursor, Draft, Record
from .wire import encode_drafts, encode_record

Control = Literal["stream.cursor", "stream.end", "stream.error"]

HEARTBEAT: Final = b": \n\n"

_LINE_BREAKS: Final = str.maketrans("\r\n", "  ")


def encode_frame(record: Record) -> bytes:
    """One record, or gap, as a frame."""
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (
        record.cursor.encode(),
        record.kind.translate(_LINE_BREAKS).encode(),
        encode_record(record),
    )


def encode_frames(generation: str, first_seq: int, drafts: Sequence[Draft]) -> list[bytes]:
    """The frames of consecutive records of one stream: much faster than one by one."""
    # %-signs cannot be in a generation: it would not be a cursor.
    frame = b"id: %b.%%d\nevent: %%b\ndata: %%b\n\n" % generation.encode()
    events: dict[str, bytes] = {}
    frames: list[bytes] = []
    for seq, (draft, line) in enumerate(
        zip(drafts, encode_drafts(first_seq, drafts), strict=True), first_seq
    ):
        kind = draft.kind
        event = events.get(kind)
        if event is None:
            event = events[kind] = kind.translate(_LINE_BREAKS).encode()
        frames.append(frame % (seq, event, line))
    return frames


def encode_control(
    kind: Control, cursor: Cursor, data: bytes, *, retry_ms: int | None = None
) -> bytes:
    """A frame that is no record. `data` is JSON in one line; `retry_ms` says how long an EventSource
    waits before it connects again, from now on.
    """
    retry = b"" if retry_ms is None else b"retry: %d\n" % retry_ms
    return b"%bid: %b\nevent: %b\ndata: %b\n\n" % (retry, str(cursor).encode(), kind.encode(), data)
