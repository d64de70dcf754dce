"""How a stream is written: as server-sent events, or as lines of JSON. One object for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from ..api import NDJSON, SSE
from ..record import Cursor, Draft, Record
from ..sse import HEARTBEAT, Control, encode_control, encode_frame, encode_frames
from ..wire import encode_lines, encode_record

_encode = msgspec.json.Encoder().encode


class StreamFormat(Protocol):
    """What of a stream goes out as which bytes."""

    @property
    def media_type(self) -> bytes: ...

    def records(self, generation: str, first_seq: int, drafts: Sequence[Draft]) -> list[bytes]:
        """Consecutive records, each on its own."""
        ...

    def unnumbered(self, record: Record) -> bytes:
        """What is told and not stored: a gap, a lost run."""
        ...

    def control(
        self, kind: Control, cursor: Cursor, data: object, *, retry_ms: int | None = None
    ) -> bytes:
        """A control frame."""
        ...

    def heartbeat(self, cursor: Cursor) -> bytes:
        """A sign of life."""
        ...


class SseFormat:
    """Server-sent events."""

    media_type: bytes = SSE.encode()

    def records(self, generation: str, first_seq: int, drafts: Sequence[Draft]) -> list[bytes]:
        return encode_frames(generation, first_seq, drafts)

    def unnumbered(self, record: Record) -> bytes:
        return encode_frame(record)

    def control(
        self, kind: Control, cursor: Cursor, data: object, *, retry_ms: int | None = None
    ) -> bytes:
        return encode_control(kind, cursor, _encode(data), retry_ms=retry_ms)

    def heartbeat(self, cursor: Cursor) -> bytes:  # noqa: ARG002 - the protocol's
        return HEARTBEAT


class LineFormat:
    """Newline-delimited JSON: each line an envelope with its cursor."""

    media_type: bytes = NDJSON.encode()

    def records(self, generation: str, first_seq: int, drafts: Sequence[Draft]) -> list[bytes]:
        return encode_lines(generation, first_seq, drafts)

    def unnumbered(self, record: Record) -> bytes:
        return b'%b,"cursor":"%b"}\n' % (encode_record(record)[:-1], record.cursor.encode())

    def control(
        self, kind: Control, cursor: Cursor, data: object, *, retry_ms: int | None = None
    ) -> bytes:
        line: dict[str, object] = {"kind": kind, "data": data, "cursor": str(cursor)}
        if retry_ms is not None:
            line["retry_ms"] = retry_ms
        return _encode(line) + b"\n"

    def heartbeat(self, cursor: Cursor) -> bytes:
        # An empty line would be no JSON.
        return self.control("stream.cursor", cursor, {})
