"""Positions in a stream: where a reader begins, and where it goes on when records are gone."""

from __future__ import annotations

import asyncio
from typing import Final, Literal

import msgspec

from .errors import GenerationChanged, PositionGone, RunNotFound
from .filter import Filter
from .log import READ_LIMIT_DEFAULT, Log, RunInfo
from .record import GAP, Cursor, Draft, make_draft
from .start import Start

GapReason = Literal["trimmed", "generation_changed", "removed"]

# `last=N` looks at this many of a stream's newest records at most for N that its filter matches: a second or
# two of reading, for one question.
LAST_LOOKED_AT_MAX: Final = 1_000_000

# What a log answers to a read from a position that was good once.
GONE: Final = (GenerationChanged, PositionGone, RunNotFound)


class Gap(msgspec.Struct, frozen=True):
    """Records that cannot be read: the draft that tells a reader, and where it goes on (None: nowhere)."""

    reason: GapReason
    draft: Draft
    goes_on: Cursor | None


async def first_position(log: Log, info: RunInfo, start: Start, wanted: Filter) -> Cursor:
    """Where a reader of the run begins. It may be one that cannot be read from (any more).

    Raises what `Log.read` does.
    """
    if start.after is not None:
        return start.after
    if start.last is not None:
        return await _last_position(log, info, start.last, wanted)
    return Cursor(info.generation, max(start.from_seq or 1, 1) - 1)


def gap_behind(
    run_id: str, position: Cursor, error: GenerationChanged | PositionGone | RunNotFound
) -> Gap:
    """The hole behind `position` that a reader of the run was told of with `error`."""
    reason: GapReason
    to_seq: int | None = None
    next_seq: int | None = None
    goes_on: Cursor | None = None
    if isinstance(error, GenerationChanged):
        reason, next_seq = "generation_changed", error.first_seq
        goes_on = Cursor(error.generation, error.first_seq - 1)
    elif isinstance(error, PositionGone):
        reason, to_seq, next_seq = "trimmed", error.first_seq - 1, error.first_seq
        goes_on = Cursor(position.generation, error.first_seq - 1)
    else:
        reason = "removed"
    missing = {"from_seq": position.seq + 1, "to_seq": to_seq, "next_seq": next_seq}
    return Gap(reason, make_draft(run_id, GAP, {"reason": reason, **missing}), goes_on)


async def _last_position(log: Log, info: RunInfo, count: int, wanted: Filter) -> Cursor:
    """Just before the `count` newest records that the filter matches, or as far back as it looks."""
    is_root = info.run_id == info.root_run_id
    if is_root and wanted.is_open:
        return Cursor(info.generation, max(info.last_seq - count, info.first_seq - 1))
    first = max(info.first_seq, info.last_seq - LAST_LOOKED_AT_MAX + 1)
    end, window = info.last_seq, min(max(count, 1), READ_LIMIT_DEFAULT)
    while count > 0 and end >= first:
        begin = max(end - window, first - 1)
        drafts = await _read_between(log, info, begin, end)
        for seq in range(begin + len(drafts), begin, -1):
            draft = drafts[seq - begin - 1]
            ours = is_root or draft.run_id == info.run_id
            if ours and wanted.matches(draft):
                count -= 1
                if count == 0:
                    return Cursor(info.generation, seq - 1)
        end = begin
        window = min(window * 4, READ_LIMIT_DEFAULT)
        # The memory's log answers without a pause; others want their turn.
        await asyncio.sleep(0)
    return Cursor(info.generation, end)


async def _read_between(log: Log, info: RunInfo, begin: int, end: int) -> list[Draft]:
    """The records behind `begin` up to `end`, of as many pages as they come in."""
    drafts: list[Draft] = []
    while begin + len(drafts) < end:
        position = Cursor(info.generation, begin + len(drafts))
        page = await log.read(info.root_run_id, after=position, limit=end - position.seq)
        if not page.drafts:
            break
        drafts += page.drafts
    return drafts
