"""Records of a Redis log: appended by one script, read in pages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NoReturn, cast

from ..admission import (
    PARENT_ENDED,
    admit,
    check_batch,
    check_children,
    check_position,
    lost_draft,
)
from ..errors import InvalidInput, LogUnavailable, RunEnded
from ..log import STATUS_BY_KIND, Appended, Page, Producer, ProducerState, Status
from ..record import Cursor, Draft
from .redis_keys import around_run_id, chunks_of, drafts_of, run_info
from .redis_scripts import APPEND, READ
from .redis_streams import Streams, new_token

# Records of large payloads make a short page: it is held in memory whole, once for each reader.
PAGE_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024
SEQ_MAX: Final = 2**53


async def append(
    streams: Streams,
    run_id: str,
    drafts: Sequence[Draft],
    producer: Producer | None,
    *,
    final: bool,
) -> tuple[Appended, str, Sequence[bytes]]:
    """The answer, the root's run id, and who ended (as the script tells it)."""

    def args_of(root: str) -> list[Any]:
        check_batch(drafts, root_run_id=root, final=final)
        return _append_args(root, drafts, producer, final=final)

    token = None if producer else new_token()
    believed = streams.root_of(run_id)
    try:
        root, answer = await streams.call(APPEND, run_id, args_of, token=token)
    except InvalidInput:
        # By what we knew; but it may be a child that we had not met, or not be there at all.
        if (await streams.get(run_id)).root_run_id == believed:
            raise
        root, answer = await streams.call(APPEND, run_id, args_of, token=token)
    match answer:
        case [b"ok", first, last, _, *ended]:
            return Appended(int(first), int(last)), root, ended
        case [b"state", *numbers] if producer is not None:
            state = ProducerState(*(int(number) for number in numbers))
            _, repeated = admit(state, producer, len(drafts))
            if repeated is not None:
                return repeated, root, ()
        case [b"ended", status]:
            raise RunEnded(f"run {root!r} has ended ({status.decode()})")
        case [b"children", *statuses]:
            _refuse_children(root, drafts, statuses)
        case _:
            pass
    raise LogUnavailable(f"an answer of Redis makes no sense: {answer!r:.200}")


def _append_args(
    root: str, drafts: Sequence[Draft], producer: Producer | None, *, final: bool
) -> list[Any]:
    """What the script of an append takes, behind what every script takes."""
    children = sorted({draft.run_id for draft in drafts} - {root})
    changes: list[Any] = []
    if not STATUS_BY_KIND.keys().isdisjoint({draft.kind for draft in drafts}):
        for draft in drafts:
            status = STATUS_BY_KIND.get(draft.kind)
            if status is not None:
                changes += (draft.run_id, status, "1" if draft.is_terminal else "")
    contradicts_itself = ""
    if children:
        try:
            check_children(drafts, root_run_id=root, status_of=lambda _: "running")
        except RunEnded:
            contradicts_itself = "1"
    head, tail = around_run_id(lost_draft(root, PARENT_ENDED)) if final else (b"", b"")
    # The end is an entry of its own: the ends of lost children come between it and the others.
    chunks = [*chunks_of(drafts[:-1]), *chunks_of(drafts[-1:])] if final else chunks_of(drafts)
    who = (producer.id, producer.epoch, producer.number) if producer else ("", 0, 0)
    numbers = (len(children), len(changes) // 3)
    return [
        *(*who, len(drafts), "1" if final else "", head, tail, contradicts_itself, *numbers),
        *(*children, *changes, *chunks),
    ]


def _refuse_children(root: str, drafts: Sequence[Draft], statuses: Sequence[bytes]) -> NoReturn:
    children = sorted({draft.run_id for draft in drafts} - {root})
    known: dict[str, Status] = {
        child: cast(Status, status.decode())
        for child, status in zip(children, statuses, strict=True)
        if status
    }

    def status_of(child: str) -> Status | None:
        return known.get(child)

    check_children(drafts, root_run_id=root, status_of=status_of)
    raise LogUnavailable("an answer of Redis about the runs of a batch makes no sense")


async def read(streams: Streams, run_id: str, after: Cursor, limit: int) -> Page:
    """As the contract has it; the limit has been checked."""
    # (A number beyond what Lua counts exactly is beyond every stream, too.)
    args = (min(after.seq, SEQ_MAX), limit, PAGE_SIZE_BYTES_MAX)
    root, answer = await streams.call(READ, run_id, lambda _: args, use="read")
    info = run_info(run_id, root, answer[1:7])
    check_position(info, after)
    root_status, reached, joined = answer[7], int(answer[8]), answer[9]
    drafts = drafts_of(joined)
    # The first chunk may begin, and the last one end, beyond what was asked for.
    skip = after.seq + 1 - (reached - len(drafts) + 1)
    drafts = drafts[skip : skip + limit]
    at_end = after.seq + len(drafts) == info.last_seq
    has_ended = not root_status.endswith(b" ")
    return Page(info.generation, after.seq + 1, drafts, has_ended and at_end)
