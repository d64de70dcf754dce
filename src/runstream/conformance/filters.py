"""Filters: a subscriber gets what it asked for, and what everyone must know."""

from __future__ import annotations

from ..errors import InvalidInput
from ..record import DROPPED, make_draft
from .check import (
    OpenLog,
    collect,
    ending,
    expect_equal,
    new_run,
    notes,
    refusal,
    seqs_of,
    subscribe,
)


async def check_filters_are_or_within_and_across(open_log: OpenLog) -> None:
    """A record passes if each filter has one of its values; a string is one value."""
    async with open_log() as log:
        run = await new_run(log)
        places = [(kind, topic) for kind in ("token", "log", "x") for topic in ("a", "b", None)]
        await log.append(run, [make_draft(run, kind, {}, topic=topic) for kind, topic in places])
        got = await collect(subscribe(log, run, kinds="token", follow=False))
        expect_equal(seqs_of(got), [1, 2, 3], "kinds='token'")
        got = await collect(subscribe(log, run, kinds=["token", "x"], topics="b", follow=False))
        expect_equal(seqs_of(got), [2, 8], "kinds=['token', 'x'] and topics='b'")
        got = await collect(subscribe(log, run, topics=["a", "b"], follow=False))
        expect_equal(seqs_of(got), [1, 2, 4, 5, 7, 8], "topics=['a', 'b']")
        got = await collect(subscribe(log, run, topics="ab", follow=False))
        expect_equal(seqs_of(got), [], "topics='ab'")


async def check_correlation_ids_tell_interleaved_records_apart(open_log: OpenLog) -> None:
    """Records of parallel generations in one stream are told apart, with `index` unchanged."""
    async with open_log() as log:
        run = await new_run(log)
        drafts = [
            make_draft(run, "token", {}, correlation_id=f"gen-{place % 2}", index=place // 2)
            for place in range(20)
        ]
        await log.append(run, drafts)
        for generation in (0, 1):
            wanted = f"gen-{generation}"
            got = await collect(subscribe(log, run, correlation_ids=wanted, follow=False))
            expect_equal([record.index for record in got], list(range(10)), f"indexes of {wanted}")
            ids = {record.correlation_id for record in got}
            expect_equal(ids, {wanted}, "the correlation ids of a filter on one")


async def check_control_records_pass_every_filter(open_log: OpenLog) -> None:
    """Gaps, drops and the terminal record reach a subscriber whatever it filters for."""
    async with open_log() as log:
        run = await new_run(log)
        dropped = make_draft(run, DROPPED, {"count": 3, "reason": "queue_full"})
        await log.append(run, [*notes(run, [1, 2]), dropped, *notes(run, [3])])
        await log.append(run, [ending(run)], final=True)
        await log.trim(run, through=1)
        got = await collect(subscribe(log, run, kinds="none-of-these", topics="nor-these"))
        kinds = [record.kind for record in got]
        expect_equal(kinds, ["stream.gap", DROPPED, "run.completed"], "what passed the filter")


async def check_a_follower_ends_behind_what_it_filters(open_log: OpenLog) -> None:
    """A follower whose filter lets nothing through still ends with its run; a child's too."""
    async with open_log() as log:
        run = await new_run(log)
        child = await new_run(log, parent=run)
        await log.append(run, [*notes(run, range(1500)), *notes(child, [1]), ending(child)])
        await log.append(run, [ending(run)], final=True)
        for followed, end in ((run, 1503), (child, 1502)):
            got = await collect(subscribe(log, followed, correlation_ids="none"))
            ends = [record.seq for record in got if record.run_id == followed]
            expect_equal(ends, [end], "the terminal record of the run that was followed")


async def check_impossible_filters_are_refused(open_log: OpenLog) -> None:
    """A filter value or position that no record can have is refused, instead of waiting for ever."""
    async with open_log() as log:
        run = await new_run(log)

        async def ask(**asked: object) -> None:
            await collect(subscribe(log, run, **asked))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] # on purpose

        for asked in ({"kinds": ""}, {"topics": "two\nlines"}, {"from_seq": -1}, {"last": -1}):
            await refusal(ask(**asked), InvalidInput, f"a subscription with {asked}")
        both = ask(from_seq=1, last=1)
        await refusal(both, InvalidInput, "a subscription with two positions")
        await refusal(ask(after="not a cursor"), InvalidInput, "a cursor that is none")
