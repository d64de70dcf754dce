"""POST events: a body of JSON in, a durable answer out. The hottest route, so it speaks ASGI itself.

What `publish` checks in the producer's process is checked here again, because anyone may send; `data`
is stored byte for byte as it came.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final, TypeAlias

import msgspec
from starlette.types import Receive, Scope, Send

from ..api import JSON, AppendedEvents, ProducerBody
from ..errors import Forbidden, InvalidInput, LeaseHeld, RequestTooLarge
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


_Check: TypeAlias = Callable[[msgspec.Raw], msgspec.Raw]


class _Dropped(msgspec.Struct):
    """The payload of a `stream.dropped`, as far as it is counted."""

    count: Annotated[int, msgspec.Meta(ge=0, le=INDEX_MAX)] = 0


_APPEND: Final = msgspec.json.Decoder(_Append)
_DROPPED: Final = msgspec.json.Decoder(_Dropped)
_encode: Final = msgspec.json.Encoder().encode
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)
# A JSON text cannot be nested deeper than half its bytes.
_SHALLOW_BYTES: Final = 2 * NESTING_MAX
# What a body is searched for, alike: all digits (so that a number with an exponent of three digits is found
# by one search), both line breaks, both brackets that open.
_ALIKE: Final = bytes.maketrans(b"123456789+E\r[", b"0000000000e\n{")
# What may come before a number in JSON, alike; and how far back its beginning is looked for.
_BEFORE_NUMBERS: Final = frozenset((b":", b",", b"{", b" ", b"\t"))
_NUMBER_BYTES: Final = 64
# With an exponent of less than three digits only so long a number can be one that floats cannot hold.
_LONG_NUMBER: Final = b"0" * 200


async def append_events(
    site: Site, principal: Principal, run_id: str, scope: Scope, receive: Receive, send: Send
) -> None:
    """Append all of the events of the body, or none of them."""
    began_s = time.perf_counter()
    body = await read_body(site, scope, receive)
    asked = decode(body, _APPEND)
    events = asked.events
    if len(events) > site.options.events_max:
        raise RequestTooLarge(
            f"a request has at most {site.options.events_max} events, not {len(events)}"
        )
    producer = _producer(asked.producer, len(events))
    drafts = _drafts(run_id, events, _check_for(body, len(events)))
    relatives = {event.run_id for event in events} - {None, run_id}
    if relatives:
        await _require_family(site, principal, run_id, relatives)
    # All are looked at, because each of them must be one that can be stored.
    kinds = {event.kind for event in events}
    lifecycle = [kind for kind in kinds if _is_lifecycle(kind)]
    if lifecycle and (producer is None or producer.epoch == 0):
        await _require_unheld(site, run_id)
    stored = await site.intake.append(run_id, drafts, producer=producer, final=asked.final)
    new = len(drafts) - stored.duplicates
    site.metrics.appended(new, len(body), time.perf_counter() - began_s)
    if new and DROPPED in kinds:
        site.metrics.dropped(_dropped(events))
    answer = AppendedEvents(stored.first_seq, stored.last_seq, stored.duplicates)
    await send_body(send, 200, _encode(answer), JSON.encode())


def _producer(sender: ProducerBody | None, count: int) -> Producer | None:
    if sender is None:
        return None
    if not 0 <= sender.epoch <= INDEX_MAX or abs(sender.number) > INDEX_MAX - count:
        raise InvalidInput("a producer's epoch and numbers are whole numbers up to 2^53-1")
    return Producer(check_name(sender.id, "producer id"), sender.epoch, sender.number)


def _check_for(body: bytes, count: int) -> _Check | None:
    """What the payloads in a body must go through beyond the decoder's own checks.

    Line breaks, numbers that floats cannot hold, deep nesting and large records are looked for in the
    whole body at once, and most have none of them. Looking closer for nothing does no harm.
    """
    alike = body.translate(_ALIKE)
    if b"\n" in alike or len(body) > RECORD_SIZE_BYTES_MAX:
        return _checked
    if _LONG_NUMBER in alike or _may_hold_huge_number(alike):
        return _checked
    # Each event opens an object of its own, whatever its payload is.
    if alike.count(b"{") - count > NESTING_MAX:
        return _checked_if_deep
    return None


def _may_hold_huge_number(alike: bytes) -> bool:
    """Whether there is one with an exponent of three digits, or what looks so in a text.

    Within ids of hexadecimal digits much looks so; but a number stands behind a
    mark that no id has before it.
    """
    at = alike.find(b"0e000")
    while at >= 0:
        before = alike[max(0, at - _NUMBER_BYTES) : at].rstrip(b"0.").removesuffix(b"-")
        if not before or before[-1:] in _BEFORE_NUMBERS:
            return True
        at = alike.find(b"0e000", at + 1)
    return False


def _drafts(run_id: str, events: list[_Event], check: _Check | None) -> list[Draft]:
    now = now_us()
    drafts: list[Draft] = []
    for event in events:
        kind, when, child = event.kind, event.time, event.run_id
        topic, step, step_run_id = event.topic, event.step, event.step_run_id
        attempt, correlation_id, index = event.attempt, event.correlation_id, event.index
        # (No loop over the names: this is the one place where each of them costs.)
        if topic is not None:
            _check_name(topic, "topic")
        if step is not None:
            _check_name(step, "step")
        if step_run_id is not None:
            _check_name(step_run_id, "step_run_id")
        if correlation_id is not None:
            _check_name(correlation_id, "correlation_id")
        if attempt is not None:
            _check_attempt(attempt)
        if index is not None:
            check_index(index)
        drafts.append(
            Draft(
                now if when is None else (when - _EPOCH) // _US,
                run_id if child is None else _check_run_id(child),
                kind,
                event.data if check is None else check(event.data),
                topic,
                step,
                step_run_id,
                attempt,
                correlation_id,
                index,
            )
        )
    return drafts


def _checked(data: msgspec.Raw) -> msgspec.Raw:
    """The payload as it may be stored: in one line. Raises InvalidPayload, PayloadTooLarge."""
    return msgspec.Raw(encode_payload(bytes(data)))


def _checked_if_deep(data: msgspec.Raw) -> msgspec.Raw:
    raw = bytes(data)
    deep = len(raw) > _SHALLOW_BYTES and raw.count(b"{") + raw.count(b"[") > NESTING_MAX
    return _checked(data) if deep else data


def _dropped(events: list[_Event]) -> int:
    """How many records the producer says it has dropped."""
    count = 0
    for event in events:
        if event.kind == DROPPED:
            # What anyone may send need not have the form that our clients send.
            with contextlib.suppress(msgspec.MsgspecError):
                count += _DROPPED.decode(event.data).count
    return count


async def _require_family(
    site: Site, principal: Principal, run_id: str, relatives: set[str | None]
) -> None:
    """Who may write to a root writes for its children, too; who may write to a child, only for that one.

    Raises Forbidden.
    """
    if all(principal.allows("runs:write", relative or run_id) for relative in relatives):
        return
    info = await site.log.info(run_id)
    if info.root_run_id != run_id:
        raise Forbidden("this token does not allow runs:write for all of the runs of these events")


async def _require_unheld(site: Site, run_id: str) -> None:
    """Only producers that opened a run tell of its lifecycle, while a process holds it.

    Anyone who may write to it may write tasks and steps (subprocesses do), and ask something of it; but
    its end, say, must not be told by somebody else than those who run it.
    """
    info = await site.log.info(run_id)
    root = info if info.root_run_id == run_id else await site.log.info(info.root_run_id)
    if not root.has_ended and (info.lease is not None or root.lease is not None):
        raise LeaseHeld(
            f"a process holds run {run_id!r}: to tell of its lifecycle, open it with a producer (PUT), and "
            "send the epoch that the answer gives"
        )


# The same few names come in every request: whatever was checked once is known to be good.
@lru_cache(maxsize=NAMES_KNOWN_MAX)
def _is_lifecycle(kind: str) -> bool:
    """Raises InvalidInput for a kind that is never stored."""
    check_name(kind, "kind")
    if kind.startswith("stream.") and kind != DROPPED:
        raise InvalidInput(f"nobody stores a {kind!r}: the kinds that begin so are the server's")
    return kind.startswith("run.") and kind not in REQUESTS


@lru_cache(maxsize=NAMES_KNOWN_MAX)
def _check_name(name: str, what: str) -> None:
    check_name(name, what)


@lru_cache(maxsize=NAMES_KNOWN_MAX)
def _check_run_id(run_id: str) -> str:
    return check_run_id(run_id)


def _check_attempt(attempt: int) -> None:
    if not 1 <= attempt <= INDEX_MAX:
        raise InvalidInput(f"attempts count from 1, not {attempt}")
