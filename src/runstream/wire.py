"""Records and runs as JSON: what a server sends, and what `--json` prints, one object a line.

The payload is copied byte for byte (but for line breaks around its values); fields that are not set are
left out. A gap has no number, so its envelope has no `seq`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

import msgspec

from .errors import InvalidInput
from .log import RunInfo, Status
from .record import Draft, Record

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
_LENGTH: Final = len("2026-04-15T10:30:00.000000Z")
_FRACTION: Final = len("2026-04-15T10:30:00.")
# A log may hold payloads that others encoded. Line breaks are white space there: inside of JSON's strings
# they are forbidden.
_IN_ONE_LINE: Final = bytes.maketrans(b"\r\n", b"  ")
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
    """What is told and not stored, so it takes no number: a gap, or that a run is lost, by a server whose
    log cannot be written.
    """

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


_encoder: Final = msgspec.json.Encoder()
_encode = _encoder.encode


def rfc3339(time_us: int) -> str:
    """µs since 1970 as `2026-04-15T10:30:00.000000Z`; beyond the years 1 to 9999, their end."""
    # A producer's clock may say anything; whoever reads its records must not fail over it.
    if not _TIME_US_MIN <= time_us <= _TIME_US_MAX:
        time_us = min(max(time_us, _TIME_US_MIN), _TIME_US_MAX)
    second, fraction = divmod(time_us, 1_000_000)
    return f"{_second_text(second)}.{fraction:06}Z"


@lru_cache(maxsize=1024)
def _second_text(second: int) -> str:
    # As in `_moment_us`: nearly always a second that was written before.
    return (_EPOCH + timedelta(seconds=second)).isoformat().removesuffix("+00:00")


def time_us(text: str) -> int:
    """RFC 3339 as µs since 1970, UTC: what `rfc3339` gives, and any other offset or precision.

    Raises InvalidInput for any other text, or a time without an offset.
    """
    fraction = text[20:26]
    if (
        len(text) == _LENGTH
        and text[19] == "."
        and text[26] == "Z"
        and fraction.isascii()
        and fraction.isdigit()
    ):
        return _moment_us(text[:19] + "Z") + int(fraction)
    return _moment_us(text)


@lru_cache(maxsize=1024)
def _moment_us(text: str) -> int:
    # Records come many to a second, so the second is nearly always one that was parsed before.
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        moment = None
    # (Python also reads other forms of ISO 8601: without dashes, weeks, local times.)
    if moment is None or moment.tzinfo is None or text[4:11:3].upper() != "--T":
        raise InvalidInput(
            f"not a time: {text[:64]!r}; write RFC 3339, like 2026-04-15T10:30:00.000000Z"
        )
    return (moment - _EPOCH) // _US


def draft_of(envelope: Envelope) -> Draft:
    """The record of an envelope, without its number. Raises InvalidInput for a time that is none."""
    return Draft(
        time_us(envelope.time),
        envelope.run_id,
        envelope.kind,
        envelope.data,
        envelope.topic,
        envelope.step,
        envelope.step_run_id,
        envelope.attempt,
        envelope.correlation_id,
        envelope.index,
    )


def encode_record(record: Record) -> bytes:
    """The record's envelope as compact JSON in one line."""
    draft = record.draft
    time = rfc3339(draft.time)
    if record.seq == 0:
        line = _encode(GapEnvelope(time, draft.run_id, draft.kind, draft.data))
        return line.translate(_IN_ONE_LINE)
    line = _encode(
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
    return line.translate(_IN_ONE_LINE)


def encode_drafts(first_seq: int, drafts: Sequence[Draft]) -> list[bytes]:
    """The envelopes of consecutive records, each as compact JSON in one line: much faster than one by one."""
    envelopes: list[Envelope] = []
    second, prefix = None, ""
    for seq, draft in enumerate(drafts, first_seq):
        time = draft.time
        if time // 1_000_000 != second:
            # Records come many to a second: most of a time is the time before.
            time = min(max(time, _TIME_US_MIN), _TIME_US_MAX)
            second = time // 1_000_000
            prefix = rfc3339(time)[:_FRACTION]
        envelopes.append(
            Envelope(
                seq,
                f"{prefix}{time % 1_000_000:06d}Z",
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
    lines = _encoder.encode_lines(envelopes)
    if lines.count(b"\n") == len(envelopes) and b"\r" not in lines:
        return lines.split(b"\n")[:-1]
    return [_encode(envelope).translate(_IN_ONE_LINE) for envelope in envelopes]


def encode_lines(generation: str, first_seq: int, drafts: Sequence[Draft]) -> list[bytes]:
    """As `encode_drafts`, each with its line break, and with its `cursor` as the last member: so whoever
    reads lines can resume behind any of them.
    """
    cursor = b'%%b,"cursor":"%b.%%d"}\n' % generation.encode()
    lines = encode_drafts(first_seq, drafts)
    return [cursor % (line[:-1], seq) for seq, line in enumerate(lines, first_seq)]


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
