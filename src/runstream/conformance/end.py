"""End: every run ends with one terminal record, which is the last."""

from __future__ import annotations

import asyncio

from ..errors import InvalidInput, RunEnded, RunNotFound
from ..log import Producer
from ..record import Cursor
from .check import (
    WORKFLOW,
    OpenLog,
    collect,
    ending,
    expect,
    expect_equal,
    kinds_of,
    let_it_wait,
    new_name,
    new_run,
    notes,
    read_all,
    refusal,
    seqs_of,
    subscribe,
)

ENDS = {
    "run.completed": "completed",
    "run.failed": "failed",
    "run.cancelled": "cancelled",
    "run.timed_out": "timed_out",
}


async def check_the_terminal_record_is_last(open_log: OpenLog) -> None:
    """Each kind of end gives the run its status, and every reader is told that the stream has ended."""
    async with open_log() as log, open_log() as other:
        for kind, status in ENDS.items():
            run = await new_run(log)
            await log.append(run, [*notes(run, [1]), ending(run, kind)], final=True)
            for handle in (log, other):
                info = await handle.info(run)
                expect_equal((info.status, info.last_seq), (status, 2), f"the run after {kind}")
                expect(
                    info.has_ended and info.ended is not None, "the run is not known to have ended"
                )
                page = await handle.read(run, after=Cursor(None, 0))
                expect_equal(kinds_of(page.drafts), ["note", kind], "the stream")
                page = await handle.read(run, after=Cursor(None, 2))
                expect(page.ended, "a page at the end of an ended run does not say so")


async def check_nothing_follows_the_end(open_log: OpenLog) -> None:
    """An append to a run that has ended is refused, from every process."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        await other.append(run, notes(run, [1]))
        await log.append(run, [ending(run)], final=True)
        for handle in (log, other):
            await refusal(handle.append(run, notes(run, [2])), RunEnded, "an append after the end")
            second = handle.append(run, [ending(run)], final=True)
            await refusal(second, RunEnded, "a second end")
            late = handle.append(run, notes(run, [2]), producer=Producer(new_name(), 0, 1))
            await refusal(late, RunEnded, "an append of a new producer after the end")
        expect_equal(kinds_of(await read_all(log, run)), ["note", "run.completed"], "the stream")


async def check_final_and_the_terminal_record_agree(open_log: OpenLog) -> None:
    """`final` without the root's terminal record, or that record without `final`, is refused."""
    async with open_log() as log:
        run = await new_run(log)
        child = await new_run(log, parent=run)
        cases = [
            ([ending(run)], False, "the root's terminal record without final"),
            (notes(run, [1]), True, "final without a terminal record"),
            ([ending(child)], True, "final with a child's terminal record"),
            ([ending(run), *notes(run, [1])], True, "final with a record behind the terminal one"),
            ([ending(run), ending(run)], True, "two terminal records"),
        ]
        for drafts, final, what in cases:
            await refusal(log.append(run, drafts, final=final), InvalidInput, what)
        info = await log.info(run)
        expect_equal((info.status, info.last_seq), ("running", 0), "the run after the refusals")


async def check_a_retry_of_the_end_is_accepted(open_log: OpenLog) -> None:
    """The append that ended a run may be sent again: its answer is the original one."""
    async with open_log() as log, open_log() as other:
        run, producer = await new_run(log), new_name()
        await log.append(run, notes(run, [1]), producer=Producer(producer, 0, 1))
        last, sent = [*notes(run, [2]), ending(run)], Producer(producer, 0, 2)
        await log.append(run, last, producer=sent, final=True)
        for handle in (log, other):
            again = await handle.append(run, last, producer=sent, final=True)
            answer = (again.first_seq, again.last_seq, again.duplicates)
            expect_equal(answer, (2, 3, 2), "the answer to the repeat of the end")
        expect_equal(len(await read_all(log, run)), 3, "the number of records")


async def check_followers_end_after_the_terminal_record(open_log: OpenLog) -> None:
    """A subscriber that waits gets the terminal record and ends; in every process."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        following = [
            asyncio.ensure_future(collect(subscribe(handle, run))) for handle in (log, other)
        ]
        await let_it_wait(following[-1])
        await log.append(run, notes(run, [1]))
        await log.append(run, [ending(run, "run.failed")], final=True)
        for records in await asyncio.gather(*following):
            expect_equal(kinds_of(records), ["note", "run.failed"], "what a follower got")
            expect(records[-1].is_terminal, "the last record is not terminal")


async def check_an_ended_run_replays_and_ends(open_log: OpenLog) -> None:
    """Who follows a run that has ended gets what it asks for and ends, also behind the last record."""
    async with open_log() as log:
        run = await new_run(log)
        await log.append(run, notes(run, [1, 2]))
        await log.append(run, [ending(run)], final=True)
        whole = await collect(subscribe(log, run))
        expect_equal(seqs_of(whole), [1, 2, 3], "the replay")
        expect_equal(seqs_of(await collect(subscribe(log, run, last=1))), [3], "its last record")
        for start in (subscribe(log, run, after=whole[-1].cursor), subscribe(log, run, from_seq=4)):
            expect_equal(await collect(start), [], "what follows the terminal record")
        await log.trim(run, through=3)
        got = kinds_of(await collect(subscribe(log, run)))
        expect_equal(got, ["stream.gap"], "the replay of a run that was trimmed whole")


async def check_an_ended_child_replays_and_ends(open_log: OpenLog) -> None:
    """Who follows a child that has ended ends too, from any position, while its root goes on."""
    async with open_log() as log:
        root = await new_run(log)
        child = await new_run(log, parent=root)
        await log.append(root, [*notes(child, [1]), ending(child), *notes(root, [3, 4])])
        whole = await collect(subscribe(log, child))
        expect_equal(seqs_of(whole), [1, 2], "the replay")
        for from_seq in (3, 4, 5):
            got = await collect(subscribe(log, child, from_seq=from_seq))
            expect_equal(got, [], "what follows a child's terminal record")
        await log.trim(root, through=3)
        replay = kinds_of(await collect(subscribe(log, child)))
        expect_equal(replay, ["stream.gap"], "the replay of a child whose records were trimmed")


async def check_a_root_ends_its_children_first(open_log: OpenLog) -> None:
    """Children that still run when their root ends are ended just before it, as lost."""
    async with open_log() as log:
        root = await new_run(log)
        child = await new_run(log, parent=root)
        following = asyncio.ensure_future(collect(subscribe(log, child)))
        await let_it_wait(following)
        producer = new_name()
        last, sent = [*notes(root, [1]), ending(root)], Producer(producer, 0, 1)
        appended = await log.append(root, last, producer=sent, final=True)
        expect_equal((appended.first_seq, appended.last_seq), (1, 3), "the numbers of the append")
        again = await log.append(root, last, producer=sent, final=True)
        expect_equal((again.first_seq, again.last_seq), (1, 3), "the numbers of its repeat")
        drafts = [(draft.run_id, draft.kind) for draft in await read_all(log, root)]
        wanted = [(root, "note"), (child, "run.lost"), (root, "run.completed")]
        expect_equal(drafts, wanted, "the stream")
        expect_equal(kinds_of(await following), ["run.lost"], "what the child's follower got")
        expect_equal((await log.info(child)).status, "lost", "the child's status")


async def check_a_family_may_end_in_one_append(open_log: OpenLog) -> None:
    """A child whose end comes in the same append as its root's ends as it says, and is not lost."""
    async with open_log() as log:
        root = await new_run(log)
        child, lost = [await new_run(log, parent=root) for _ in range(2)]
        batch = [*notes(lost, [1]), *notes(child, [2]), ending(child), ending(root)]
        await log.append(root, batch, final=True)
        drafts = [(draft.run_id, draft.kind) for draft in await read_all(log, root)]
        wanted = [(lost, "note"), (child, "note"), (child, "run.completed"), (lost, "run.lost")]
        expect_equal(drafts, [*wanted, (root, "run.completed")], "the stream")
        statuses = [(await log.info(run)).status for run in (child, lost)]
        expect_equal(statuses, ["completed", "lost"], "the children's statuses")


async def check_a_childs_end_leaves_its_root_running(open_log: OpenLog) -> None:
    """A child's terminal record ends the child alone: its root, and other children, go on."""
    async with open_log() as log:
        root = await new_run(log)
        child, sibling = [await new_run(log, parent=root) for _ in range(2)]
        await log.append(child, [ending(child, "run.failed")])
        statuses = [(await log.info(run)).status for run in (root, child, sibling)]
        expect_equal(statuses, ["running", "failed", "running"], "root, child and sibling")
        await log.append(sibling, notes(sibling, [1]))
        await log.append(root, [*notes(root, [2]), ending(root)], final=True)
        got = kinds_of(await collect(subscribe(log, root)))
        wanted = ["run.failed", "note", "run.lost", "note", "run.completed"]
        expect_equal(sorted(got), sorted(wanted), "what the root's follower got")
        expect_equal(got[-1], "run.completed", "the last record")


async def check_nothing_follows_a_childs_end(open_log: OpenLog) -> None:
    """An append to a child that has ended is refused, while its root goes on."""
    async with open_log() as log:
        root = await new_run(log)
        child = await new_run(log, parent=root)
        late = [ending(child), *notes(child, [1])]
        await refusal(log.append(child, late), RunEnded, "a record after the end in one append")
        await log.append(child, [*notes(child, [1]), ending(child)])
        await refusal(log.append(child, notes(child, [2])), RunEnded, "a record after the end")
        await refusal(log.append(child, [ending(child)]), RunEnded, "a second end of a child")
        mixed = [*notes(root, [2]), *notes(child, [2])]
        await refusal(log.append(root, mixed), RunEnded, "a record after the end, among others")
        reopened = log.open(child, producer=new_name(), workflow=WORKFLOW)
        await refusal(reopened, RunEnded, "opening a child that has ended")
        await log.append(root, notes(root, [3]))
        expect_equal(len(await read_all(log, root)), 3, "the number of records")


async def check_an_ended_run_cannot_be_opened(open_log: OpenLog) -> None:
    """Opening a run that has ended, or a child of it, is refused."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        await log.append(run, [ending(run)], final=True)
        for handle in (log, other):
            for workflow in (None, WORKFLOW):
                opening = handle.open(run, producer=new_name(), workflow=workflow)
                await refusal(opening, RunEnded, "opening a run that has ended")
            child = handle.open(new_name(), producer=None, workflow=WORKFLOW, parent_run_id=run)
            await refusal(child, RunEnded, "opening a child of a run that has ended")


async def check_an_unknown_run_is_not_found(open_log: OpenLog) -> None:
    """Whatever is asked of a run that is not there is answered with RunNotFound, and creates nothing."""
    async with open_log() as log:
        run, known = new_name(), await new_run(log)
        calls = {
            "info": log.info(run),
            "read": log.read(run, after=Cursor(None, 0)),
            "append": log.append(run, notes(run, [1])),
            "open without a workflow": log.open(run, producer=new_name()),
            "open with an unknown parent": log.open(
                run, producer=None, workflow=WORKFLOW, parent_run_id=new_name()
            ),
            "renew": log.renew(run, owner="nobody", epoch=1),
            "release": log.release(run, owner="nobody", epoch=1),
            "trim": log.trim(run, through=1),
            "list": log.list(before=run),
        }
        for name, call in calls.items():
            await refusal(call, RunNotFound, f"{name} of a run that is not there")
        expect_equal((await log.info(known)).last_seq, 0, "another run's newest number")
