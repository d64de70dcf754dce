"""POST events: a body of JSON in, a durable answer out. The hottest route, so it speaks ASGI itself.

What `publish` checks in the producer's process is checked here again, because anyone may send; `data`
is stored byte for byte as it came.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from starlette.types import Receive, Scope, Send

from ..api import JSON, AppendedEvents, ProducerBody
from ..errors import InvalidInput, RequestTooLarge, StreamingOff
from ..events import check_name
from ..log import Producer
from ..payload import NESTING_MAX, RECORD_SIZE_BYTES_MAX, encode_payload
from ..record import DROPPED, INDEX_MAX, Draft, check_index, check_run_id, now_us
from .access import Principal
from .answers import send_body
from .bodies import decode, read_body
from .site import Site

# Of the kinds of runs' own lifecycle, what anyone who may write to a run may send: requests to it.
REQUESTS: Final = frozenset({"run.signal", "run.cancel_requested"})
# Different names that are remembered as checked: more than a server meets in a minute, a few MB at most.
NAMES_KNOWN_MAX: Final = 4096


class _Event(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """`EventBody` as it is read here: the time as a time."""

    kind: str
    data: msgspec.Raw = msgspec.Raw(b"null")
    time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    run_id: str | None = None
    topic: str | None = None
    step: str | None = None
    step_run_id: str | None = None
    attempt: int | None = None
    correlation_id: str | None = None
    index: int | None = None


class _Append(msgspec.Struct, forbid_unknown_fields=True):
    """`AppendEvents` as it is read here."""

    events: list[_Event]
    producer: ProducerBody | None = None
    final: bool = False


_APPEND: Final = msgspec.json.Decoder(_Append)
_encode: Final = msgspec.json.Encoder().encode
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
# A JSON text cannot be nested deeper than half its bytes: most payloads need no closer look.
_SHALLOW_BYTES: Final = 2 * NESTING_MAX
# Where a number has an exponent of three digits, whatever they are, it may be beyond what floats can hold.
_AS_ZEROS: Final = bytes.maketrans(b"123456789E", b"000000000e")


async def append_events(
    site: Site, _principal: Principal, run_id: str, scope: Scope, receive: Receive, send: Send
) -> None:
    """Append all of the events of the body, or none of them."""
    if not site.options.streaming:
        raise StreamingOff("streaming is switched off at this server: nothing is stored")
    began_s = time.perf_counter()
    body = await read_body(scope, receive, site.options.body_bytes_max)
    asked = decode(body, _APPEND)
    events = asked.events
    if len(events) > site.options.events_max:
        raise RequestTooLarge(
            f"a request has at most {site.options.events_max} events, not {len(events)}"
        )
    producer = _producer(asked.producer, len(events))
    drafts = _drafts(
        run_id, events, opened=producer is not None and producer.epoch > 0, odd=_is_odd(body)
    )
    stored = await site.log.append(run_id, drafts, producer=producer, final=asked.final)
    site.metrics.appended(len(drafts), len(body), time.perf_counter() - began_s)
    answer = AppendedEvents(stored.first_seq, stored.last_seq, stored.duplicates)
    await send_body(send, 200, _encode(answer), JSON.encode())


def _producer(sender: ProducerBody | None, count: int) -> Producer | None:
    if sender is None:
        return None
    if not 0 <= sender.epoch <= INDEX_MAX or not 1 <= sender.number <= INDEX_MAX - count:
        raise InvalidInput("a producer's epoch counts from 0, its numbers from 1, up to 2^53-1")
    return Producer(check_name(sender.id, "producer id"), sender.epoch, sender.number)


def _is_odd(body: bytes) -> bool:
    """Whether a payload may need more than the decoder's own look: line breaks, or huge numbers."""
    if b"\n" in body or b"\r" in body:
        return True
    digits = body.translate(_AS_ZEROS)
    return b"0e000" in digits or b"0e+000" in digits


def _drafts(run_id: str, events: list[_Event], *, opened: bool, odd: bool) -> list[Draft]:
    now = now_us()
    drafts: list[Draft] = []
    for event in events:
        _check_kind(event.kind, opened)
        data = event.data
        raw = bytes(data)
        if odd or len(raw) > _SHALLOW_BYTES:
            data = _checked(data, raw, odd=odd)
        drafts.append(
            Draft(
                now if event.time is None else (event.time - _EPOCH) // _US,
                run_id if event.run_id is None else _check_run_id(event.run_id),
                event.kind,
                data,
                _check_name(event.topic, "topic"),
                _check_name(event.step, "step"),
                _check_name(event.step_run_id, "step_run_id"),
                None if event.attempt is None else _check_attempt(event.attempt),
                _check_name(event.correlation_id, "correlation_id"),
                None if event.index is None else check_index(event.index),
            )
        )
    return drafts


def _checked(data: msgspec.Raw, raw: bytes, *, odd: bool) -> msgspec.Raw:
    """The payload as it may be stored. Raises InvalidPayload, PayloadTooLarge."""
    if odd or len(raw) > RECORD_SIZE_BYTES_MAX or raw.count(b"[") + raw.count(b"{") > NESTING_MAX:
        return msgspec.Raw(encode_payload(raw))
    return data


# The same few names come in every request: whatever was checked once is known to be good.
@lru_cache(maxsize=NAMES_KNOWN_MAX)
def _check_kind(kind: str, opened: bool) -> None:
    """Raises InvalidInput for a kind that this producer may not write.

    Anyone who may write to the run may write tasks and steps (a subprocess does), tell of what was
    dropped, and ask something of the run. Its own lifecycle takes a producer that has opened it.
    """
    check_name(kind, "kind")
    if kind.startswith("stream.") and kind != DROPPED:
        raise InvalidInput(f"nobody stores a {kind!r}: kinds with stream. are the server's own")
    if kind.startswith("run.") and not opened and kind not in REQUESTS:
        raise InvalidInput(
            f"{kind!r} takes a producer that has opened the run: PUT it with a producer, and send its epoch"
        )


@lru_cache(maxsize=NAMES_KNOWN_MAX)
def _check_name(name: str | None, what: str) -> str | None:
    return None if name is None else check_name(name, what)


@lru_cache(maxsize=NAMES_KNOWN_MAX)
def _check_run_id(run_id: str) -> str:
    return check_run_id(run_id)


def _check_attempt(attempt: int) -> int:
    if not 1 <= attempt <= INDEX_MAX:
        raise InvalidInput(f"attempts count from 1, not {attempt}")
    return attempt
