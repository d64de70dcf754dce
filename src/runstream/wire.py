"""Records and runs as JSON: what a server sends, and what `--json` prints, one object a line.

The payload is copied byte for byte; fields that are not set are left out. A gap has no number, so its
envelope has no `seq`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from .log import RunInfo, Status
from .record import Record

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_TIME_US_MAX: Final = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _US
_TIME_US_MIN: Final = (datetime.min.replace(tzinfo=UTC) - _EPOCH) // _US


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


class GapEnvelope(msgspec.Struct):
    """A gap on the wire: it stands for records, and takes no number itself."""

    time: str
    run_id: str
    kind: str
    data: msgspec.Raw


class RunEnvelope(msgspec.Struct, omit_defaults=True):
    """One run on the wire. Seqs are those of its root's stream; times are RFC 3339 in UTC."""

    run_id: str
    workflow: str
    status: Status
    root_run_id: str
    generation: str
    first_seq: int
    last_seq: int
    created: str
    ended: str | None = None
    parent_run_id: str | None = None


_encode = msgspec.json.Encoder().encode


def rfc3339(time_us: int) -> str:
    """µs since 1970 as `2026-04-15T10:30:00.000000Z`; beyond the years 1 to 9999, their end."""
    # A producer's clock may say anything; whoever reads its records must not fail over it.
    time_us = min(max(time_us, _TIME_US_MIN), _TIME_US_MAX)
    moment = _EPOCH + timedelta(microseconds=time_us)
    return moment.isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def encode_record(record: Record) -> bytes:
    """The record's envelope as compact JSON in one line."""
    draft = record.draft
    time = rfc3339(draft.time)
    if record.is_gap:
        return _encode(GapEnvelope(time, draft.run_id, draft.kind, draft.data))
    return _encode(
        Envelope(
            record.seq,
            time,
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


def encode_run(info: RunInfo) -> bytes:
    """What the log knows of a run, as compact JSON in one line. Its lease is nobody else's business."""
    return _encode(
        RunEnvelope(
            info.run_id,
            info.workflow,
            info.status,
            info.root_run_id,
            info.generation,
            info.first_seq,
            info.last_seq,
            rfc3339(info.created),
            None if info.ended is None else rfc3339(info.ended),
            info.parent_run_id,
        )
    )
