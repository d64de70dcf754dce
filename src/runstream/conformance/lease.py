"""Leases: one process runs a run, and when it vanishes the run goes on elsewhere or ends."""

from __future__ import annotations

import asyncio

from ..errors import InvalidInput, LeaseHeld, LeaseLost, ProducerFenced, RunEnded
from ..lease import LeaseObserver
from ..log import Lease, LeaseClaim, Log, Opened, Producer
from ..record import make_draft
from .check import (
    WORKFLOW,
    BrokenPromise,
    OpenLog,
    collect,
    ending,
    expect,
    expect_equal,
    kinds_of,
    new_name,
    new_run,
    notes,
    read_all,
    refusal,
    subscribe,
)

LONG = LeaseClaim(lease_s=60.0)
LONG_WITH_GRACE = LeaseClaim(lease_s=60.0, grace_s=60.0)
# Lapses within a check, and is still longer than a busy machine's pauses between two of its steps.
SHORT_S = 0.1


async def _start(log: Log, claim: LeaseClaim, *, parent: str | None = None) -> tuple[str, Opened]:
    """A new run and its claim."""
    run = new_name()
    opened = await log.open(
        run, producer=new_name(), workflow=WORKFLOW, parent_run_id=parent, claim=claim
    )
    return run, opened


def _lease(opened: Opened) -> Lease:
    if opened.info.lease is None:
        raise BrokenPromise("`open` with a claim gives no lease")
    return opened.info.lease


async def _lease_of(log: Log, run: str) -> Lease:
    lease = (await log.info(run)).lease
    if lease is None:
        raise BrokenPromise(f"run {run!r} has no lease")
    return lease


async def check_a_claim_is_refused_while_the_lease_is_held(open_log: OpenLog) -> None:
    """Only one process at a time holds a run; another one's claim is refused, its attaching is not."""
    async with open_log() as log, open_log() as other:
        run, opened = await _start(log, LONG)
        lease = _lease(opened)
        claim = other.open(run, producer=new_name(), workflow=WORKFLOW, claim=LONG)
        await refusal(claim, LeaseHeld, "a claim on a run that is being run")
        expect_equal(await _lease_of(other, run), lease, "the lease after the refused claim")
        joined = await other.open(run, producer=new_name())
        expect_equal(joined.info.lease, lease, "the lease after another producer has joined")
        again = await other.open(run, producer=lease.owner, claim=LONG)
        expect(again.epoch > lease.epoch, "the owner's own claim does not raise its epoch")


async def check_a_claim_needs_an_owner_and_a_time(open_log: OpenLog) -> None:
    """A claim without a producer, or for a time that cannot be, is refused, and nothing is opened."""
    async with open_log() as log:
        run = new_name()
        claims: list[tuple[str | None, LeaseClaim]] = [(None, LONG)]
        for lease_s, grace_s in ((0.0, 0.0), (-1.0, 0.0), (float("nan"), 0.0), (1.0, -1.0)):
            claims.append((new_name(), LeaseClaim(lease_s, grace_s)))
        for producer, claim in claims:
            opening = log.open(run, producer=producer, workflow=WORKFLOW, claim=claim)
            await refusal(opening, InvalidInput, f"producer={producer!r} with {claim}")
        opened = await log.open(run, producer=None, workflow=WORKFLOW)
        expect(opened.created, "a refused claim has created the run")


async def check_a_released_lease_can_be_claimed_at_once(open_log: OpenLog) -> None:
    """A run whose owner has released it is free for any process, and never lapses meanwhile."""
    async with open_log() as log, open_log() as other:
        run, opened = await _start(log, LONG)
        lease = _lease(opened)
        waiting = make_draft(run, "run.waiting", {})
        await log.append(run, [waiting], producer=Producer(lease.owner, opened.epoch, 1))
        await log.release(run, owner=lease.owner, epoch=opened.epoch)
        info = await other.info(run)
        expect_equal((info.lease, info.status), (None, "waiting"), "lease and status")
        after = await other.expire(run, lease=lease)
        expect_equal(after.status, "waiting", "the status after an observer's late `expire`")
        claimed = await other.open(run, producer=new_name(), claim=LONG)
        expect(claimed.info.lease not in (None, lease), "the claim gave no new lease")
        again = log.release(run, owner=lease.owner, epoch=opened.epoch)
        await refusal(again, LeaseLost, "releasing a lease that was given up")


async def check_renewing_is_the_owners_alone(open_log: OpenLog) -> None:
    """Renewing raises the counter, for the owner with its newest epoch alone."""
    async with open_log() as log, open_log() as other:
        run, opened = await _start(log, LONG)
        lease = _lease(opened)
        await log.renew(run, owner=lease.owner, epoch=lease.epoch)
        renewed = await _lease_of(other, run)
        expect(renewed.counter > lease.counter, "a renewal does not raise the counter")
        strangers = ((new_name(), lease.epoch), (lease.owner, lease.epoch - 1), (lease.owner, 99))
        for owner, epoch in strangers:
            await refusal(
                other.renew(run, owner=owner, epoch=epoch), LeaseLost, "a stranger's renewal"
            )
            await refusal(
                other.release(run, owner=owner, epoch=epoch), LeaseLost, "a stranger's release"
            )
        expect_equal(await _lease_of(log, run), renewed, "the lease after the refusals")


async def check_writing_renews_the_lease(open_log: OpenLog) -> None:
    """What the owner writes is a sign of life: an observer's `expire` from before does nothing."""
    async with open_log() as log, open_log() as other:
        run, opened = await _start(log, LONG)
        lease = _lease(opened)
        await log.append(run, notes(run, [1]), producer=Producer(lease.owner, lease.epoch, 1))
        info = await other.expire(run, lease=lease)
        expect_equal(info.status, "running", "the status after expiring a lease that was in use")
        await log.append(run, notes(run, [2]), producer=Producer(lease.owner, lease.epoch, 2))


async def check_expiring_an_outdated_lease_does_nothing(open_log: OpenLog) -> None:
    """`expire` with a lease that was renewed or claimed anew meanwhile changes nothing."""
    async with open_log() as log, open_log() as other:
        run, opened = await _start(log, LONG)
        lease = _lease(opened)
        await log.renew(run, owner=lease.owner, epoch=lease.epoch)
        info = await other.expire(run, lease=lease)
        expect_equal((info.status, info.last_seq), ("running", 0), "the run after a renewal")
        await log.open(run, producer=lease.owner, claim=LONG)
        info = await other.expire(run, lease=lease)
        expect_equal((info.status, info.last_seq), ("running", 0), "the run after a new claim")


async def check_a_vanished_owner_without_grace_loses_the_run(open_log: OpenLog) -> None:
    """A run that cannot be resumed ends as lost when its lease lapses; that record is the last one."""
    async with open_log() as log, open_log() as other:
        run, opened = await _start(log, LONG)
        await log.append(run, notes(run, [1]))
        info = await other.expire(run, lease=_lease(opened))
        expect_equal(
            (info.status, info.last_seq), ("lost", 2), "the run that `expire` answers with"
        )
        for handle in (log, other):
            got = await collect(subscribe(handle, run))
            expect_equal(kinds_of(got), ["note", "run.lost"], "what a follower gets")
        await refusal(log.append(run, notes(run, [2])), RunEnded, "an append after the loss")
        claim = log.open(run, producer=new_name(), claim=LONG)
        await refusal(claim, RunEnded, "a claim after the loss")


async def check_a_vanished_owner_with_grace_stalls_the_run(open_log: OpenLog) -> None:
    """A run that may be resumed stalls first, and is lost only if its grace passes too."""
    async with open_log() as log, open_log() as other:
        run, opened = await _start(log, LONG_WITH_GRACE)
        lease = _lease(opened)
        info = await other.expire(run, lease=lease)
        expect_equal((info.status, info.last_seq), ("stalled", 1), "the run when its lease lapsed")
        for late in (log, other):
            info = await late.expire(run, lease=lease)
            expect_equal(info.status, "stalled", "the run after another observer's late `expire`")
        info = await log.expire(run, lease=await _lease_of(log, run))
        expect_equal((info.status, info.last_seq), ("lost", 2), "the run when its grace has passed")
        got = await collect(subscribe(other, run))
        expect_equal(kinds_of(got), ["run.stalled", "run.lost"], "what a follower gets")


async def check_a_stalled_run_can_be_taken_over(open_log: OpenLog) -> None:
    """A stalled run can be claimed by another process and goes on there."""
    async with open_log() as log, open_log() as other:
        run, opened = await _start(log, LONG_WITH_GRACE)
        await log.expire(run, lease=_lease(opened))
        stalled = await _lease_of(log, run)
        heir = await other.open(run, producer=new_name(), claim=LONG)
        heirs = _lease(heir)
        sent = Producer(heirs.owner, heir.epoch, 1)
        await other.append(
            run, [make_draft(run, "run.resumed", {}), *notes(run, [1])], producer=sent
        )
        info = await log.expire(run, lease=stalled)
        expect_equal(info.status, "running", "the run after an `expire` that comes too late")
        await other.renew(run, owner=heirs.owner, epoch=heir.epoch)
        final = Producer(heirs.owner, heir.epoch, 3)
        await other.append(run, [ending(run)], producer=final, final=True)
        got = await collect(subscribe(log, run))
        wanted = ["run.stalled", "run.resumed", "note", "run.completed"]
        expect_equal(kinds_of(got), wanted, "what a follower gets")


async def check_a_claimed_run_is_running(open_log: OpenLog) -> None:
    """A parked or stalled run is running once it is claimed: no observer takes its heir for dead."""
    async with open_log() as log, open_log() as other:
        for kind in ("run.waiting", "run.stalled"):
            run, opened = await _start(log, LONG_WITH_GRACE)
            if kind == "run.stalled":
                await log.expire(run, lease=_lease(opened))
            else:
                await log.append(run, [make_draft(run, kind, {})])
            heir = await other.open(run, producer=new_name(), claim=LONG)
            info = await log.info(run)
            expect_equal((info.status, info.lease), ("running", heir.info.lease), f"after {kind}")
            expect(not LeaseObserver().lapsed(info, 0.0), "the heir's lease lapses at first sight")
            claim = log.open(run, producer=new_name(), claim=LONG)
            await refusal(claim, LeaseHeld, "a second heir's claim")


async def check_a_vanished_owner_is_fenced(open_log: OpenLog) -> None:
    """When a lease has been expired, its old owner can neither write, renew nor release any more."""
    async with open_log() as log, open_log() as other:
        run, opened = await _start(log, LONG_WITH_GRACE)
        lease = _lease(opened)
        await other.expire(run, lease=lease)
        zombie = log.append(run, notes(run, [1]), producer=Producer(lease.owner, lease.epoch, 1))
        await refusal(zombie, ProducerFenced, "an append of the old owner")
        renewal = log.renew(run, owner=lease.owner, epoch=lease.epoch)
        await refusal(renewal, LeaseLost, "a renewal by the old owner")
        release = log.release(run, owner=lease.owner, epoch=lease.epoch)
        await refusal(release, LeaseLost, "a release by the old owner")
        back = await log.open(run, producer=lease.owner, claim=LONG)
        sent = Producer(lease.owner, back.epoch, back.number + 1)
        await log.append(run, notes(run, [1]), producer=sent)
        kinds = kinds_of(await read_all(other, run))
        expect_equal(kinds, ["run.stalled", "note"], "the stream after the owner came back")


async def check_one_of_many_observers_expires(open_log: OpenLog) -> None:
    """If many observers see a lease lapse at once, exactly one of them acts."""
    for claim, wanted in ((LONG, "run.lost"), (LONG_WITH_GRACE, "run.stalled")):
        async with open_log() as log, open_log() as other:
            run, opened = await _start(log, claim)
            lease = _lease(opened)
            await asyncio.gather(
                *((log, other)[place % 2].expire(run, lease=lease) for place in range(16))
            )
            kinds = kinds_of(await read_all(log, run))
            expect_equal(kinds, [wanted], "what 16 observers made of one lapsed lease")


async def check_children_are_lost_with_their_root(open_log: OpenLog) -> None:
    """When a root is lost its running children are ended just before it; ended ones stay as they are."""
    async with open_log() as log:
        root, opened = await _start(log, LONG)
        ended, running = [await new_run(log, parent=root) for _ in range(2)]
        grandchild = await new_run(log, parent=running)
        await log.append(ended, [ending(ended)])
        await log.expire(root, lease=_lease(opened))
        drafts = await read_all(log, root)
        wanted = [(ended, "run.completed"), (grandchild, "run.lost"), (running, "run.lost")]
        got = [(draft.run_id, draft.kind) for draft in drafts]
        expect_equal(got, [*wanted, (root, "run.lost")], "how the family ended")
        statuses = [(await log.info(run)).status for run in (ended, running, grandchild)]
        expect_equal(statuses, ["completed", "lost", "lost"], "the children's statuses")
        for child in (running, grandchild):
            got = [(record.run_id, record.kind) for record in await collect(subscribe(log, child))]
            expect_equal(got, [(child, "run.lost")], "what a child's follower gets")


async def check_a_lost_child_leaves_its_root_running(open_log: OpenLog) -> None:
    """A child with a process of its own is lost alone; its root goes on."""
    async with open_log() as log:
        root = await new_run(log)
        child, opened = await _start(log, LONG, parent=root)
        info = await log.expire(child, lease=_lease(opened))
        expect_equal(info.status, "lost", "the child's status")
        expect_equal((await log.info(root)).status, "running", "the root's status")
        await log.append(root, notes(root, [1]))
        got = await collect(subscribe(log, child))
        expect_equal(kinds_of(got), ["run.lost"], "what the child's follower gets")


async def check_followers_end_when_the_process_vanishes(open_log: OpenLog) -> None:
    """Whoever follows a run sees it stall and then end when its process stops renewing the lease."""
    async with open_log() as log, open_log() as other:
        run, _ = await _start(log, LeaseClaim(SHORT_S, SHORT_S))
        child = await new_run(log, parent=run)
        of_run, of_child, elsewhere = await asyncio.gather(
            collect(subscribe(log, run)),
            collect(subscribe(log, child)),
            collect(subscribe(other, run)),
        )
        wanted = ["run.stalled", "run.lost", "run.lost"]
        expect_equal(kinds_of(of_run), wanted, "what a follower gets")
        expect_equal(kinds_of(elsewhere), wanted, "what a follower in another process gets")
        expect_equal(kinds_of(of_child), ["run.lost"], "what a follower of its child gets")
