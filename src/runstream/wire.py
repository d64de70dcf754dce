"""The envelope of a record as JSON: what a server sends, and `--json` prints.

The payload is copied byte for byte; fields that are not set are left out.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from .record import Record


class Envelope(msgspec.Struct, omit_defaults=True):
    """One record on the wire. `time` is RFC 3339 in UTC, with microseconds."""

    seq: int
    time: str
    run_id: str
    kind: str
    data: msgspec.Raw
    topic: str | None = None
    step: str | None = None
    step_run_id: str | None = None
    attempt: int | None = None
    correlation_id: str | None = None
    index: int | None = None


_encode = msgspec.json.Encoder().encode


def rfc3339(time_us: int) -> str:
    """µs since 1970 as `2026-04-15T10:30:00.000000Z`."""
    moment = datetime.fromtimestamp(time_us // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_us % 1_000_000:06d}Z"


def encode_record(record: Record) -> bytes:
    """The record's envelope as compact JSON in one line."""
    draft = record.draft
    return _encode(
        Envelope(
            record.seq,
            rfc3339(draft.time),
            draft.run_id,
            draft.kind,
            draft.data,
            draft.topic,
            draft.step,
            draft.step_run_id,
            draft.attempt,
            draft.correlation_id,
            draft.index,
        )
    )
