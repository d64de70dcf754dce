"""The conformance suite: every promise of the log contract as a check that any log can be put to.

`runstream check URL` runs it for users; the tests run it on every log of ours. A bug that breaks a promise
begins as a new check here.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncGenerator, Collection
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, Final, Literal, cast

from .. import logs
from ..log import Log, Opened
from . import (
    durable,
    end,
    filters,
    lease,
    listing,
    live,
    model,
    order,
    removal,
    resume,
    retry,
    rude,
)
from .check import (
    AT_ONCE,
    CHECK_S_MAX,
    MANY_RUNS,
    MANY_RUNS_REMOTE,
    BrokenPromise,
    Check,
    NotApplicable,
    OpenLog,
    Outcome,
    ending,
)

_AREAS: Final = {
    "order": order,
    "durability": durable,
    "resume": resume,
    "live": live,
    "filter": filters,
    "retry": retry,
    "lease": lease,
    "end": end,
    "list": listing,
    "removal": removal,
    "rude": rude,
    "random": model,
}


def _checks_of(area: str, module: ModuleType) -> list[Check]:
    return [
        Check(
            name=name.removeprefix("check_"),
            area=area,
            promise=" ".join((inspect.getdoc(run) or "").split()),
            run=run,
        )
        for name, run in vars(module).items()
        if name.startswith("check_") and inspect.iscoroutinefunction(run)
    ]


# In the order of their areas, and in each area in the order of its file.
CHECKS: Final = tuple(
    check for area, module in _AREAS.items() for check in _checks_of(area, module)
)


async def run_checks(
    open_log: OpenLog, *, only: Collection[str] | None = None, seconds_max: float = CHECK_S_MAX
) -> AsyncGenerator[Outcome, None]:
    """Put a log to every check, or to those whose names or areas are in `only`; one outcome each. A
    check that takes longer than `seconds_max` is taken to hang.

    The runs that this makes are of workflows that begin with `check-` or are called `conformance`, and
    are ended when their check is done; other runs of the store are left alone.
    """
    for check in CHECKS:
        if only is None or check.name in only or check.area in only:
            recorded = _Recorded(open_log)
            yield await run_check(check, recorded, seconds_max=seconds_max)
            await recorded.end_runs()


async def run_check(
    check: Check, open_log: OpenLog, *, seconds_max: float = CHECK_S_MAX
) -> Outcome:
    """Put a log to one check. Only being cancelled leaves this function as an exception."""
    start = time.perf_counter()
    status: Literal["kept", "broken", "not_applicable"] = "kept"
    why = ""
    try:
        async with asyncio.timeout(seconds_max):
            await check.run(open_log)
    except NotApplicable as reason:
        status, why = "not_applicable", str(reason)
    except BrokenPromise as broken:
        status, why = "broken", str(broken)
    except TimeoutError:
        status, why = "broken", f"it hangs: not done after {seconds_max:.0f} s"
    except Exception as error:  # noqa: BLE001 - whatever a log raises, the next check goes on
        status, why = "broken", f"unexpected {type(error).__name__}: {error}"
    seconds = time.perf_counter() - start
    return Outcome(check.name, check.area, check.promise, status, why, seconds)


class _Recorded:
    """A store that knows which runs were opened through it, so that none of them is left running."""

    def __init__(self, open_log: OpenLog) -> None:
        self.reopens = open_log.reopens
        self.many_runs = open_log.many_runs
        self._open_log = open_log
        self._opened: list[str] = []

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[Log, None]:
        async with self._open_log() as log:
            yield cast(Log, _Recorder(log, self._opened))

    async def end_runs(self) -> None:
        """End the runs that still run: a run that never ends would never age out."""
        if not self.reopens:
            return
        async with self._open_log() as log:
            opened = list(dict.fromkeys(self._opened))
            for start in range(0, len(opened), AT_ONCE):
                some = opened[start : start + AT_ONCE]
                ends = (log.append(run, [ending(run, "run.cancelled")], final=True) for run in some)
                # Refused if it has ended, or is a child, which ends with its root.
                await asyncio.gather(*ends, return_exceptions=True)


class _Recorder:
    """A handle that notes which runs it opens."""

    def __init__(self, log: Log, opened: list[str]) -> None:
        self._log = log
        self._opened = opened

    async def open(self, run_id: str, **options: Any) -> Opened:
        opened = await self._log.open(run_id, **options)
        self._opened.append(run_id)
        return opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)


def log_factory(url: str, *, many_runs: int | None = None) -> OpenLog:
    """Handles on the log of a URL, each as another process would have it.

    `many_runs` is how many runs a check of many opens: unless given, fewer where a call leaves the process.

    Raises (on opening):
        InvalidURL, NotALog, LogUnavailable: the log cannot be opened.
    """
    many_runs = many_runs or (MANY_RUNS if logs.is_embedded(url) else MANY_RUNS_REMOTE)
    handles = _MemoryHandles if url.partition(":")[0] == "memory" else _Handles
    return handles(url, many_runs)


class _Handles:
    """A store that outlives its handles: each one is opened from the URL for itself."""

    reopens = True

    def __init__(self, url: str, many_runs: int) -> None:
        self.many_runs = many_runs
        self._url = url

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[Log, None]:
        # Opening may wait for a disk.
        log = await asyncio.to_thread(logs.open_log, self._url)
        try:
            yield log
        finally:
            await log.aclose()


class _MemoryHandles:
    """A store in this process: its handles are one object, and the last one closed takes it away."""

    reopens = False

    def __init__(self, url: str, many_runs: int) -> None:
        self.many_runs = many_runs
        self._url = url
        self._log: Log | None = None
        self._open = 0

    @asynccontextmanager
    async def __call__(self) -> AsyncGenerator[Log, None]:
        if self._log is None:
            self._log = logs.open_log(self._url)
        log = self._log
        self._open += 1
        try:
            yield log
        finally:
            self._open -= 1
            if self._open == 0:
                self._log = None
                await log.aclose()
