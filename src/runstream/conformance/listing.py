"""Listing: every run is found, newest first, however many there are."""

from __future__ import annotations

import asyncio

from ..log import LIST_LIMIT_MAX, Log, RunInfo, Status
from ..record import make_draft
from .check import AT_ONCE, OpenLog, ending, expect, expect_equal, new_name, new_run


async def _list_all(
    log: Log, workflow: str, *, status: Status | None = None, limit: int = LIST_LIMIT_MAX
) -> list[RunInfo]:
    """All pages, read as a user would."""
    runs: list[RunInfo] = []
    while True:
        before = runs[-1].run_id if runs else None
        page = await log.list(workflow=workflow, status=status, before=before, limit=limit)
        expect(len(page) <= limit, f"a page of {len(page)} runs for limit={limit}")
        if not page:
            return runs
        runs += page


async def check_runs_are_listed_newest_first(open_log: OpenLog) -> None:
    """Runs are listed newest first, in pages of any size, children included."""
    async with open_log() as log, open_log() as other:
        workflow = new_name()
        runs: list[str] = []
        for place in range(7):
            parent = None if place % 3 else next(iter(runs), None)
            runs.append(await new_run((log, other)[place % 2], workflow=workflow, parent=parent))
        for handle in (log, other):
            for limit in (1, 3, 7, 100):
                listed = await _list_all(handle, workflow, limit=limit)
                got = [info.run_id for info in listed]
                expect_equal(got, runs[::-1], f"the runs in pages of {limit}")


async def check_runs_are_listed_by_workflow_and_status(open_log: OpenLog) -> None:
    """A list can be narrowed to a workflow and a status, and tells what `info` tells."""
    async with open_log() as log, open_log() as other:
        one, two = new_name(), new_name()
        runs = [await new_run(log, workflow=(one, two)[place % 2]) for place in range(6)]
        await log.append(runs[0], [ending(runs[0])], final=True)
        await log.append(runs[1], [ending(runs[1], "run.failed")], final=True)
        await log.append(runs[2], [make_draft(runs[2], "run.waiting", {})])
        for handle in (log, other):
            expect_equal(
                list(await handle.list(workflow=one)),
                [await log.info(run) for run in (runs[4], runs[2], runs[0])],
                "the runs of a workflow",
            )
            wanted: dict[Status, list[str]] = {
                "completed": [runs[0]],
                "waiting": [runs[2]],
                "running": [runs[4]],
                "failed": [],
            }
            for status, ids in wanted.items():
                got = [info.run_id for info in await handle.list(workflow=one, status=status)]
                expect_equal(got, ids, f"the runs of a workflow that are {status}")
        expect_equal(list(await log.list(workflow=new_name())), [], "the runs of no workflow")


async def check_many_runs_are_all_listed(open_log: OpenLog) -> None:
    """A log of thousands of runs lists each of them once, page by page."""
    many = open_log.many_runs
    async with open_log() as log:
        workflow = new_name()
        runs: list[str] = []
        for start in range(0, many, AT_ONCE):
            count = min(AT_ONCE, many - start)
            runs += await asyncio.gather(*(new_run(log, workflow=workflow) for _ in range(count)))
        listed = await _list_all(log, workflow)
        expect_equal(len(listed), many, "the number of runs listed")
        got = [info.run_id for info in listed]
        expect(set(got) == set(runs), "other runs are listed than were opened")
        for start in range(0, many, AT_ONCE):
            some = runs[start : start + AT_ONCE]
            await asyncio.gather(
                *(log.append(run, [ending(run, "run.cancelled")], final=True) for run in some)
            )
        first = await log.list(workflow=workflow, status="running")
        expect_equal(list(first), [], "the runs that still run when all were ended")
