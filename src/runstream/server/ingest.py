"""POST events: a body of JSON in, a durable answer out. The hottest route, so it speaks ASGI itself.

What `publish` checks in the producer's process is checked here again, because anyone may send; `data`
is stored byte for byte as it came.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Final

import msgspec
from starlette.types import Receive, Scope, Send

from ..api import JSON, AppendedEvents, ProducerBody
from ..errors import Forbidden, InvalidInput, LeaseHeld, RequestTooLarge
from ..events import check_name
from ..json_text import alike, is_deeper, may_hold_huge_number
from ..log import Producer
from ..payload import NESTING_MAX, RECORD_SIZE_BYTES_MAX, encode_payload
from ..record import DROPPED, INDEX_MAX, Draft, check_index, check_run_id, now_us
from .access import Principal
from .answers import send_body
from .bodies import decode, read_body
from .site import Site

# Of the kinds of runs' own lifecycle, what anyone who may write to a run may send: requests to it.
REQUESTS: Final = frozenset({"run.signal", "run.cancel_requested"})
# Payloads are looked at closely so many bytes at a time: some milliseconds, if they hold what takes longest.
SLICE_BYTES: Final = 16 * 1024
# A larger one alone may hold the loop for longer than a subscriber should notice, so a thread looks at it.
LARGE_BYTES: Final = 128 * 1024
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


class _Dropped(msgspec.Struct):
    """The payload of a `stream.dropped`, as far as it is counted."""

    count: Annotated[int, msgspec.Meta(ge=0, le=INDEX_MAX)] = 0


_APPEND: Final = msgspec.json.Decoder(_Append)
_DROPPED: Final = msgspec.json.Decoder(_Dropped)
_encode: Final = msgspec.json.Encoder().encode
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_US: Final = timedelta(microseconds=1)


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
    await _check_payloads(body, events)
    drafts = _drafts(run_id, events)
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


async def _check_payloads(body: bytes, events: list[_Event]) -> None:
    """What payloads must go through beyond the decoder's own checks.

    Line breaks, numbers that floats cannot hold, deep nesting and large records are looked for in the
    whole body at once, and most have none of them. Else each payload is looked at, some at a time: others are
    served meanwhile.

    Raises InvalidPayload, PayloadTooLarge.
    """
    found = alike(body)
    odd = b"\n" in found or may_hold_huge_number(found)
    # Each event opens an object of its own, whatever its payload is.
    brackets = found.count(b"{") - len(events)
    if not odd and brackets <= NESTING_MAX and len(body) <= RECORD_SIZE_BYTES_MAX:
        return
    size_bytes = 0
    for event in events:
        raw = bytes(event.data)
        if len(raw) > LARGE_BYTES:
            raw = await asyncio.to_thread(encode_payload, raw)
        elif odd or is_deeper(raw, NESTING_MAX):
            raw = encode_payload(raw)  # in one line
        event.data = msgspec.Raw(raw)
        size_bytes += len(raw)
        if size_bytes >= SLICE_BYTES:
            size_bytes = 0
            await asyncio.sleep(0)


def _drafts(run_id: str, events: list[_Event]) -> list[Draft]:
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
                event.data,
                topic,
                step,
                step_run_id,
                attempt,
                correlation_id,
                index,
            )
        )
    return drafts


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
