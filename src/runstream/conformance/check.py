"""What a check is made of: the store that it gets, records to write, ways to read, and a verdict.

A check is a plain coroutine function `check_<promise>(open_log)` whose docstring states the promise. It
uses run ids of its own, so it leaves the other runs of a store alone. It raises `BrokenPromise` if the log
does not keep the promise, and `NotApplicable` if the log does not make it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Literal, Protocol, TypeVar

import msgspec

from ..errors import RunstreamError
from ..filter import Names, make_filter
from ..log import LIST_LIMIT_MAX, READ_LIMIT_DEFAULT, Log
from ..record import Cursor, Draft, Record, make_draft
from ..start import make_start
from ..subscription import Subscription

# No check takes more than a few seconds; one that takes this long hangs.
CHECK_S_MAX: Final = 30.0
# Some make thousands of calls, which a network delays by some milliseconds each.
REMOTE_CHECK_S_MAX: Final = 10 * CHECK_S_MAX
# For waits that something must end: beyond the check's own limit, so that a missed wake-up is a hang.
FOREVER_S: Final = 10 * REMOTE_CHECK_S_MAX
# A log's own polling tick: after it a waiter really waits.
TICK_S: Final = 0.02
# Calls of a crowd under way at the same time: enough to share commits, no burden for a server.
AT_ONCE: Final = 500
# Runs of a log that holds many: all of them where a call takes microseconds. Across a process or a network
# it takes a hundred times as long, and there a list of several pages, the last one not full, must do.
MANY_RUNS: Final = 10_000
MANY_RUNS_REMOTE: Final = 2 * LIST_LIMIT_MAX + 500
# Of a value that a broken promise shows: it is one line of a report.
SHOWN_MAX: Final = 300
# Every run of the suite is one of this workflow, so that a person can tell them apart.
WORKFLOW: Final = "conformance"


class OpenLog(Protocol):
    """A way into one store: `async with open_log() as log` gives a handle on it, closed at the end.

    A second handle that is opened while the first one is open is what another process would have.
    """

    @property
    def reopens(self) -> bool:
        """Whether the store outlives its handles; else it is gone when the last one is closed."""
        ...

    @property
    def many_runs(self) -> int:
        """How many runs the checks of a log that holds many may open: what a call costs decides."""
        ...

    def __call__(self) -> AbstractAsyncContextManager[Log]: ...


class BrokenPromise(AssertionError):
    """The log does not keep the promise of a check; the message says how it was seen."""


class NotApplicable(Exception):
    """The log does not make the promise of a check; the message says why."""


class Check(msgspec.Struct, frozen=True):
    """One promise in executable form."""

    name: str
    area: str
    promise: str
    run: Callable[[OpenLog], Awaitable[None]]


class Outcome(msgspec.Struct, frozen=True):
    """What became of a check; `why` is empty for a promise that is kept."""

    name: str
    area: str
    promise: str
    status: Literal["kept", "broken", "not_applicable"]
    why: str
    seconds: float


# --- verdicts ------------------------------------------------------------------------------------


def needs_reopening(open_log: OpenLog) -> None:
    """Raises NotApplicable for a store that does not outlive its handles."""
    if not open_log.reopens:
        raise NotApplicable("this log lives as long as the process")


def expect(kept: bool, why: str) -> None:
    """Raises BrokenPromise unless `kept`."""
    if not kept:
        raise BrokenPromise(why)


def expect_equal(got: object, wanted: object, what: str) -> None:
    """Raises BrokenPromise, with both values, unless they are equal."""
    if got != wanted:
        raise BrokenPromise(f"{what}: got {_short(got)}, wanted {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return (
        text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX // 2]} … {text[-SHOWN_MAX // 2 :]}"
    )


Refusal = TypeVar("Refusal", bound=RunstreamError)


async def refusal(call: Awaitable[object], error: type[Refusal], what: str) -> Refusal:
    """The error that `call` is refused with. Raises BrokenPromise if it is not, or with another one."""
    try:
        answer = await call
    except error as refused:
        return refused
    except RunstreamError as other:
        raise BrokenPromise(
            f"{what} is refused with {type(other).__name__}, not {error.__name__}"
        ) from other
    raise BrokenPromise(f"{what} is not refused: the answer was {_short(answer)}")


# --- records to write ----------------------------------------------------------------------------


def new_name() -> str:
    """A run id, workflow or producer id that nobody has used."""
    return f"check-{secrets.token_hex(8)}"


async def new_run(log: Log, *, parent: str | None = None, workflow: str = WORKFLOW) -> str:
    """Open a new run without a producer; gives its id."""
    run_id = new_name()
    await log.open(run_id, producer=None, workflow=workflow, parent_run_id=parent)
    return run_id


def notes(run_id: str, numbers: Iterable[int]) -> list[Draft]:
    """One small record for each number."""
    return [make_draft(run_id, "note", {"n": number}) for number in numbers]


def ending(run_id: str, kind: str = "run.completed") -> Draft:
    """The terminal record of a run."""
    return make_draft(run_id, kind, {})


# --- ways to read --------------------------------------------------------------------------------


async def read_all(
    log: Log,
    run_id: str,
    *,
    after: int = 0,
    limit: int = READ_LIMIT_DEFAULT,
    count: int | None = None,
) -> list[Draft]:
    """The records of the stream behind `after`, all or the first `count`, read page by page."""
    drafts: list[Draft] = []
    while count is None or len(drafts) < count:
        page = await log.read(run_id, after=Cursor(None, after + len(drafts)), limit=limit)
        expect_equal(page.first_seq, after + len(drafts) + 1, "the number of a page's first record")
        if not page.drafts:
            return drafts
        drafts += page.drafts
    return drafts[:count]


def numbers_of(drafts: Iterable[Draft | Record]) -> list[int]:
    """The numbers that `notes` wrote, as they were read."""
    return [int(msgspec.json.decode(_data(draft))["n"]) for draft in drafts]


def _data(draft: Draft | Record) -> bytes:
    return draft.raw if isinstance(draft, Record) else bytes(draft.data)


def kinds_of(drafts: Iterable[Draft | Record]) -> list[str]:
    return [draft.kind for draft in drafts]


def seqs_of(records: Sequence[Record]) -> list[int]:
    return [record.seq for record in records]


def subscribe(
    log: Log,
    run_id: str,
    *,
    kinds: Names = None,
    topics: Names = None,
    correlation_ids: Names = None,
    from_seq: int | None = None,
    after: str | None = None,
    last: int | None = None,
    follow: bool = True,
    wait: bool = False,
) -> Subscription:
    """A subscription as a user gets it."""
    return Subscription(
        log,
        run_id,
        filter=make_filter(kinds=kinds, topics=topics, correlation_ids=correlation_ids),
        start=make_start(from_seq, after, last),
        follow=follow,
        wait=wait,
    )


async def collect(subscription: Subscription, count: int | None = None) -> list[Record]:
    """What a subscriber gets: the next `count` records, or all of them until it ends."""
    records: list[Record] = []
    if count == 0:
        return records
    async for record in subscription:
        records.append(record)
        if len(records) == count:
            break
    else:
        if count is not None:
            raise BrokenPromise(f"a subscription ended after {len(records)} of {count} records")
    return records


async def let_it_wait(waiting: asyncio.Future[Any]) -> None:
    """Give a task the time to get to where it waits; tells its failure."""
    done, _ = await asyncio.wait({waiting}, timeout=TICK_S)
    for task in done:
        task.result()
