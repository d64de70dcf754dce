"""A log that a test opens, and what callers do who don't give up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

from runstream.errors import LogUnavailable, RunNotFound
from runstream.log import Appended, Log, Producer
from runstream.logs import open_log
from runstream.record import Draft

# No honest wait of a test comes near it: leaders are elected within ten seconds, on an idle machine.
DEADLINE_S = 120.0


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Log]:
    """A log, opened where it blocks nobody, for the time of the block."""
    log = await asyncio.to_thread(open_log, url)
    try:
        yield log
    finally:
        await log.aclose()


async def insist(log: Log, run: str, drafts: Sequence[Draft], producer: Producer) -> Appended:
    """As a publisher does: send the same batch until the log answers."""
    final = drafts[-1].is_terminal
    async with asyncio.timeout(DEADLINE_S):
        while True:
            with contextlib.suppress(LogUnavailable):
                return await log.append(run, drafts, producer=producer, final=final)


async def wait_for_removal(log: Log, run: str) -> None:
    """Return when a run has aged out."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                info = await log.info(run)
            except RunNotFound:
                return
            await log.wait(run, after=info.last_seq, timeout=0.1)
