"""Launching: from a job to a run under way and its handler."""

from __future__ import annotations

import asyncio
from contextvars import copy_context
from typing import Any

from . import process
from .handler import Handler
from .local_handler import LocalHandler
from .payload import result_fields
from .portal import Portal
from .runner import Execution, Job, Runner


def make_runner(job: Job, workflow: str, run_id: str | None, url: str | None, given: Any) -> Runner:
    """A runner for the job. `given` is recorded as the run's input."""
    fields = {
        name.replace("result", "input"): value for name, value in result_fields(given).items()
    }
    return Runner(job, Execution(workflow, run_id=run_id, url=url, input_fields=fields))


def launch_in_loop(runner: Runner) -> Handler:
    """Run it in the calling event loop; without one, in a loop and thread of its own."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        portal = Portal("runstream-run")
        context = copy_context()
        context.run(portal.submit, runner.go())
        runner.outcome.add_done_callback(lambda _: process.threads().run(portal.close))
    else:
        runner.task = loop.create_task(runner.go(), name=runner.run.workflow)
    return LocalHandler(runner)


def launch_in_thread(runner: Runner) -> Handler:
    """Run it in a thread (a pipeline whose body is a plain function)."""
    context = copy_context()
    process.threads().run(lambda: context.run(runner.go_here))
    return LocalHandler(runner)
