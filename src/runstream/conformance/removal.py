"""Removal: a finished run can go as a whole, and single runs have limits of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from ..errors import InvalidInput, RunNotFound
from ..log import Log, Removes, Retains, TellsLimits
from ..record import GAP
from ..retention import Retention
from .check import (
    NotApplicable,
    OpenLog,
    collect,
    ending,
    expect,
    expect_equal,
    new_run,
    notes,
    read_all,
    refusal,
    subscribe,
)

_LIMITS: Final = Retention(records=10, size_bytes=1000, age=60.0, after_end=1.5)


def _removing(log: Log) -> Removes:
    if not isinstance(log, Removes):
        raise NotApplicable("this log removes finished runs by itself alone")
    return log


def _retaining(log: Log) -> Retains:
    if not isinstance(log, Retains):
        raise NotApplicable("this log has limits for all runs alone")
    return log


async def _limits(log: Log) -> Mapping[str, Retention]:
    if not isinstance(log, TellsLimits):
        raise NotApplicable("this log does not tell of the limits of its runs")
    return await log.retained()


async def check_a_removed_run_is_as_if_it_had_never_been(open_log: OpenLog) -> None:
    """A finished run can be removed with its children; others stay, and its id begins anew."""
    async with open_log() as log, open_log() as other:
        run, bystander = await new_run(log), await new_run(log)
        child = await new_run(log, parent=run)
        generation = (await log.info(run)).generation
        await log.append(run, notes(run, range(3000)))
        await log.append(run, [ending(child), ending(run)], final=True)
        await _removing(log).remove(run)
        for handle in (log, other):
            for gone in (run, child):
                await refusal(handle.info(gone), RunNotFound, "asking for a removed run")
            listed = {info.run_id for info in await handle.list(limit=1000)}
            expect(not listed & {run, child}, "a removed run is listed")
            expect(bystander in listed, "another run was removed, too")
        await refusal(_removing(log).remove(run), RunNotFound, "removing it again")
        opened = await other.open(run, producer=None, workflow="conformance")
        expect(opened.created, "a removed run is opened as if it were there")
        expect_equal(opened.info.last_seq, 0, "the newest number of the new run")
        expect(
            opened.info.generation != generation, "the new run has the generation of the old one"
        )
        await other.append(run, [ending(run)], final=True)
        expect_equal(len(await read_all(log, run)), 1, "the records of the new run")


async def check_only_a_finished_root_is_removed(open_log: OpenLog) -> None:
    """Removing a run that goes on, or a child alone, is refused and changes nothing."""
    async with open_log() as log:
        removing = _removing(log)
        run = await new_run(log)
        child = await new_run(log, parent=run)
        await log.append(run, [*notes(run, range(3)), ending(child)])
        await refusal(removing.remove(run), InvalidInput, "removing a run that goes on")
        await refusal(removing.remove(child), InvalidInput, "removing a child")
        expect_equal(len(await read_all(log, run)), 4, "the records")


async def check_a_reader_of_a_removed_run_gets_a_gap(open_log: OpenLog) -> None:
    """A subscriber that is behind when its run is removed hears of it, and is not left waiting."""
    async with open_log() as log, open_log() as other:
        run = await new_run(log)
        await log.append(run, [*notes(run, range(5000)), ending(run)], final=True)
        subscription = subscribe(other, run)
        begun = await collect(subscription, 1)
        await _removing(log).remove(run)
        rest = await collect(subscription)
        expect_equal([record.seq for record in begun], [1], "what was read before")
        # All of it may have been on its way.
        told_all = [record.seq for record in rest] == list(range(2, 5002))
        expect(told_all or rest[-1].kind == GAP, f"the last that is heard is {rest[-1].kind!r}")


async def check_the_limits_of_a_run_are_remembered(open_log: OpenLog) -> None:
    """Limits of a run are those of its root's stream; they survive, and can be changed and taken away."""
    async with open_log() as log, open_log() as other:
        retaining = _retaining(log)
        run = await new_run(log)
        child = await new_run(log, parent=run)
        await retaining.retain(run, Retention(records=1))
        await retaining.retain(child, _LIMITS)
        for handle in (log, other):
            found = await _limits(handle)
            expect_equal(found.get(run), _LIMITS, "the limits")
            expect(child not in found, "a child has limits of its own")
        await retaining.retain(run, None)
        expect(run not in await _limits(other), "limits that were taken away are there")
        await retaining.retain(run, _LIMITS)
        await log.append(run, [ending(run)], final=True)
        await _removing(log).remove(run)
        expect(run not in await _limits(other), "a removed run has limits")
        await refusal(retaining.retain(run, _LIMITS), RunNotFound, "limits for a removed run")
