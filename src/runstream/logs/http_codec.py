"""What the client of a server writes and reads: JSON from and to the terms of the log contract."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Final, TypeVar, cast, get_args

import msgspec

from ..api import (
    BODY_BYTES_MAX,
    EVENTS_MAX,
    AppendedEvents,
    EventBody,
    EventsPage,
    LeaseBody,
    OpenedRun,
    RunBody,
    RunList,
)
from ..errors import InvalidInput, NotALog
from ..log import Appended, Lease, Opened, Page, Producer, RunInfo, Status
from ..problem import Problem
from ..record import Draft
from ..wire import draft_of, rfc3339, time_us

T = TypeVar("T")

# Of a request's body, what is not events: the names of a producer, and punctuation.
FRAME_BYTES: Final = 4096
_STATUSES: Final = frozenset(get_args(Status))

_encode: Final = msgspec.json.Encoder().encode
_RUN: Final = msgspec.json.Decoder(RunBody)
_RUNS: Final = msgspec.json.Decoder(RunList)
_OPENED: Final = msgspec.json.Decoder(OpenedRun)
_APPENDED: Final = msgspec.json.Decoder(AppendedEvents)
_PAGE: Final = msgspec.json.Decoder(EventsPage)
_PROBLEM: Final = msgspec.json.Decoder(Problem)


class EnvelopeIn(msgspec.Struct, gc=False):
    """`wire.Envelope` as it is read in great numbers: the time as a time."""

    time: datetime
    run_id: str
    kind: str
    data: msgspec.Raw
    # A gap has none; nor has the end that a server tells of a run whose process vanished.
    seq: int = 0
    topic: str | None = None
    step: str | None = None
    step_run_id: str | None = None
    attempt: int | None = None
    correlation_id: str | None = None
    index: int | None = None


def encode_json(body: object) -> bytes:
    """A request's body."""
    return _encode(body)


# --- events out ----------------------------------------------------------------------------------


def is_small(drafts: Sequence[Draft]) -> bool:
    """Whether one request surely holds them: without a look at how long they are as JSON."""
    size_bytes = sum(len(bytes(draft.data)) for draft in drafts)
    return len(drafts) <= EVENTS_MAX and size_bytes <= BODY_BYTES_MAX - len(drafts) * FRAME_BYTES


def encode_parts(
    run_id: str, drafts: Sequence[Draft], records_max: int = EVENTS_MAX
) -> Iterator[tuple[int, Sequence[bytes]]]:
    """One JSON object for each draft, for requests to the run of that id: in parts that a server takes
    at once, each with the place where it begins. A part is made when it is asked for.

    An event that is too large for any request is a part of its own: the server says so.
    """
    events: list[bytes] = []
    start = size_bytes = 0
    for place, draft in enumerate(drafts):
        event = _encode(
            EventBody(
                draft.kind,
                draft.data,
                rfc3339(draft.time),
                None if draft.run_id == run_id else draft.run_id,
                draft.topic,
                draft.step,
                draft.step_run_id,
                draft.attempt,
                draft.correlation_id,
                draft.index,
            )
        )
        size_bytes += len(event) + 1
        if events and (len(events) >= records_max or size_bytes > BODY_BYTES_MAX - FRAME_BYTES):
            yield start, events
            events, start, size_bytes = [], place, len(event) + 1
        events.append(event)
    yield start, events


def encode_append(events: Sequence[bytes], producer: Producer | None, *, final: bool) -> bytes:
    """`api.AppendEvents` around events that are encoded already."""
    sender = b""
    if producer is not None:
        sender = b'"producer":%b,' % _encode(
            {"id": producer.id, "epoch": producer.epoch, "number": producer.number}
        )
    return b'{%b"final":%b,"events":[%b]}' % (
        sender,
        b"true" if final else b"false",
        b",".join(events),
    )


def lease_body(lease: Lease) -> LeaseBody:
    """A lease as a request tells of it."""
    return LeaseBody(lease.owner, lease.epoch, lease.counter, lease.lease_s, lease.grace_s)


# --- answers in ----------------------------------------------------------------------------------
# Each raises NotALog for what is no such answer: there is something else behind the URL.


def read_run(answer: bytes) -> RunInfo:
    return run_info(_decode(_RUN, answer))


def read_runs(answer: bytes) -> tuple[list[RunInfo], str | None]:
    """Some runs, and where the next ones begin (None: nowhere)."""
    page = _decode(_RUNS, answer)
    return [run_info(body) for body in page.runs], page.next


def has_records(answer: bytes) -> bool:
    """Whether a page holds any."""
    return bool(_decode(_PAGE, answer).records)


def read_opened(answer: bytes) -> Opened:
    body = _decode(_OPENED, answer)
    return Opened(run_info(body.run), body.epoch, body.number, body.created)


def read_appended(answer: bytes) -> Appended:
    body = _decode(_APPENDED, answer)
    return Appended(body.first_seq, body.last_seq, body.duplicates)


def read_page(answer: bytes) -> Page:
    body = _decode(_PAGE, answer)
    try:
        drafts = [draft_of(envelope) for envelope in body.records]
    except InvalidInput as error:
        raise NotALog(f"the server's answer is not one of ours: {error}") from error
    last_seq = body.first_seq + len(drafts) - 1
    seqs = [envelope.seq for envelope in body.records]
    if seqs != list(range(body.first_seq, last_seq + 1)):
        raise NotALog(f"the server left out records between {body.first_seq} and {last_seq}")
    return Page(body.generation, body.first_seq, drafts, body.ended)


def read_problem(answer: bytes) -> Problem | None:
    """The problem that an error answer tells of, if it is one of ours."""
    try:
        return _PROBLEM.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def run_info(body: RunBody) -> RunInfo:
    """A run as the log contract has it. Raises NotALog."""
    if body.status not in _STATUSES:
        raise NotALog(
            f"the server tells of a status that this version does not know: {body.status!r}"
        )
    lease = body.lease
    try:
        return RunInfo(
            run_id=body.run_id,
            root_run_id=body.root_run_id,
            parent_run_id=body.parent_run_id,
            workflow=body.workflow,
            status=cast(Status, body.status),
            generation=body.generation,
            first_seq=body.first_seq,
            last_seq=body.last_seq,
            created=time_us(body.created),
            ended=None if body.ended is None else time_us(body.ended),
            lease=None
            if lease is None
            else Lease(lease.owner, lease.epoch, lease.counter, lease.lease_s, lease.grace_s),
        )
    except InvalidInput as error:
        raise NotALog(f"the server's answer is not one of ours: {error}") from error


def _decode(decoder: msgspec.json.Decoder[T], answer: bytes) -> T:
    try:
        return decoder.decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise NotALog(f"the server's answer is not one of ours: {error}") from error
