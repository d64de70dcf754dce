"""Enforcing retention: trims streams and removes finished runs, in steps that nobody notices.

Works on any log through its contract. Several keepers of one log (servers, publishing processes) do no
harm to each other: trimming what is trimmed, and removing what is gone, changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from .errors import InvalidInput, LogClosed, PositionGone, RunNotFound, RunstreamError
from .log import Log, Page, Removes, RunInfo, TellsLimits
from .record import Cursor, now_us
from .retention import NO_LIMITS, TIME_S_MAX, Retention, strictest

# A round over all runs; what is over a limit stays at most about that much longer.
ROUND_S: Final = 2.0
# Rounds may take this part of the time of the process, however many runs there are.
DUTY_MAX: Final = 0.05
# Records dropped in one step: a commit of SQLite that is no longer than any other.
STEP_RECORDS: Final = 4096
# Between two steps at least; longer after a long one, so that others have half of the time.
STEP_PAUSE_S: Final = 0.002
# Runs in a page of the list.
PAGE_RUNS: Final = 200
# A limit in bytes is kept to within this part of it: the price of remembering no single record.
MARKS_PER_LIMIT: Final = 64
READ_RECORDS: Final = 1024

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Sizes:
    """Where the bytes of a stream are: (through which seq, how many), oldest first."""

    generation: str
    read_through: int
    marks: deque[tuple[int, int]] = field(default_factory=deque[tuple[int, int]])
    total: int = 0
    # Behind the last mark: not enough for one of its own yet.
    open_bytes: int = 0


def _nothing(_count: int) -> None:
    """Nobody counts."""


class Keeper:
    """Keeps the runs of a log within limits: its own, for all runs, and those that single runs have.

    With `only`, of those that it names; `on_trimmed` and `on_removed` are told how many records and runs
    went.
    """

    def __init__(
        self,
        log: Log,
        retention: Retention,
        *,
        only: Callable[[], Collection[str]] | None = None,
        on_trimmed: Callable[[int], None] = _nothing,
        on_removed: Callable[[int], None] = _nothing,
    ) -> None:
        self._log = log
        self._retention = retention
        self._only = only
        self._on_trimmed = on_trimmed
        self._on_removed = on_removed
        self._sizes: dict[str, _Sizes] = {}
        # When the oldest record of a run will be too old (µs since 1970).
        self._due: dict[str, tuple[int, int]] = {}

    async def keep(self) -> None:
        """Do rounds until cancelled or the log is closed."""
        while True:
            began_s = time.perf_counter()
            try:
                await self.round()
            except LogClosed:
                return
            except RunstreamError as error:
                logger.warning("cannot enforce the retention of runs: %s", error)
            except Exception:
                # Nobody waits for this task; the next round may fare better.
                logger.exception("cannot enforce the retention of runs")
            await asyncio.sleep(max(ROUND_S, (time.perf_counter() - began_s) / DUTY_MAX))

    async def round(self) -> None:
        """Look at every run that has limits, once, and drop what is beyond them.

        Raises what the log raises.
        """
        own: Mapping[str, Retention] = {}
        if isinstance(self._log, TellsLimits):
            own = await self._log.retained()
        seen: set[str] = set()
        async for info in self._runs(own):
            if info.run_id != info.root_run_id or info.run_id in seen:
                continue
            seen.add(info.run_id)
            limits = strictest(self._retention, own.get(info.run_id, NO_LIMITS))
            try:
                await self._enforce(info, limits)
            except (RunNotFound, PositionGone):
                continue  # it was removed or trimmed meanwhile: the next round looks again
            except RunstreamError:
                raise
            except Exception:
                # What is odd about one run is not the others' fault.
                logger.exception("cannot enforce the retention of run %s", info.run_id)
        for remembered in (self._sizes, self._due):
            for gone in remembered.keys() - seen:
                del remembered[gone]

    async def _runs(self, own: Mapping[str, Retention]) -> AsyncGenerator[RunInfo, None]:
        if self._only is not None or self._retention.is_empty:
            for run_id in own.keys() if self._only is None else list(self._only()):
                try:
                    yield await self._log.info(run_id)
                except RunNotFound:
                    continue
            return
        before: str | None = None
        while True:
            try:
                page = await self._log.list(before=before, limit=PAGE_RUNS)
            except RunNotFound:
                return  # removed meanwhile: the next round sees the rest
            for info in page:
                yield info
            if len(page) < PAGE_RUNS:
                return
            before = page[-1].run_id
            await asyncio.sleep(0)

    async def _enforce(self, info: RunInfo, limits: Retention) -> None:
        if limits.after_end is not None and info.ended is not None:
            over_us = now_us() - info.ended - _us(limits.after_end)
            if over_us >= 0 and isinstance(self._log, Removes):
                await self._remove(self._log, info)
                return
        # The newest record stays in any case: of an ended run it is the one that says how it ended.
        if info.first_seq >= info.last_seq:
            return
        through = 0
        if limits.records is not None:
            through = info.last_seq - limits.records
        if limits.age is not None:
            through = max(through, await self._older_than(info, limits.age))
        if limits.size_bytes is not None:
            through = max(through, await self._beyond(info, limits.size_bytes))
        await self._trim(info, min(through, info.last_seq - 1))

    async def _remove(self, log: Removes, info: RunInfo) -> None:
        try:
            await log.remove(info.run_id)
        except InvalidInput:
            return  # another run has its id meanwhile
        self._on_removed(1)

    async def _trim(self, info: RunInfo, through: int) -> None:
        first = info.first_seq
        while first <= through:
            step = min(through, first + STEP_RECORDS - 1)
            began_s = time.perf_counter()
            await self._log.trim(info.run_id, through=step)
            self._on_trimmed(step - first + 1)
            first = step + 1
            await asyncio.sleep(max(STEP_PAUSE_S, time.perf_counter() - began_s))

    # --- by age --------------------------------------------------------------------------------------

    async def _older_than(self, info: RunInfo, age_s: float) -> int:
        """The last seq whose record is too old (0: none), found by halving: times rise, nearly."""
        before = now_us() - _us(age_s)
        first, due = self._due.get(info.run_id, (0, 0))
        if first == info.first_seq and before < due:
            return 0
        low, high = info.first_seq - 1, info.last_seq
        while low < high:
            middle = (low + high + 1) // 2
            if await self._time_of(info, middle) < before:
                low = middle
            else:
                high = middle - 1
        if low < info.last_seq:
            self._due[info.run_id] = (low + 1, await self._time_of(info, low + 1))
        return low

    async def _time_of(self, info: RunInfo, seq: int) -> int:
        page = await self._read(info, seq - 1, 1)
        return page.drafts[0].time if page.drafts else now_us()

    # --- by bytes ------------------------------------------------------------------------------------

    async def _beyond(self, info: RunInfo, size_bytes_max: int) -> int:
        """The last seq that is beyond the newest `size_bytes_max` (0: none).

        Each record is read once, when it is new; what is remembered are some marks along the stream.
        """
        sizes = self._sizes.get(info.run_id)
        if sizes is None or sizes.generation != info.generation:
            sizes = self._sizes[info.run_id] = _Sizes(info.generation, info.first_seq - 1)
        sizes.read_through = max(sizes.read_through, info.first_seq - 1)
        through = 0
        while sizes.read_through < info.last_seq:
            page = await self._read(info, sizes.read_through, READ_RECORDS)
            if not page.drafts:
                break
            for seq, draft in enumerate(page.drafts, start=page.first_seq):
                sizes.open_bytes += len(draft.data)
                if sizes.open_bytes * MARKS_PER_LIMIT >= size_bytes_max:
                    sizes.marks.append((seq, sizes.open_bytes))
                    sizes.total += sizes.open_bytes
                    sizes.open_bytes = 0
            sizes.read_through = page.last_seq
            # At once, also in a stream that is read for the first time: the marks stay few.
            while sizes.marks and (
                sizes.total + sizes.open_bytes > size_bytes_max
                or sizes.marks[0][0] < info.first_seq
            ):
                seq, size_bytes = sizes.marks.popleft()
                sizes.total -= size_bytes
                through = max(through, seq)
            await asyncio.sleep(0)
        if info.has_ended:
            sizes.marks.clear()  # nothing more will come
        return through

    async def _read(self, info: RunInfo, after: int, limit: int) -> Page:
        return await self._log.read(info.run_id, after=Cursor(info.generation, after), limit=limit)


def _us(seconds: float) -> int:
    """In microseconds; for ever is a century."""
    return round(min(seconds, TIME_S_MAX) * 1_000_000)
