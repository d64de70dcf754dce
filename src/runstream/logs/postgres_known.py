"""What the writer of a PostgreSQL log knows of streams from its own last commits.

While nobody else writes to a stream, its next append need not look before it writes: one statement says
what it believes, and writes only if that is still so.
"""

from __future__ import annotations

import copy
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from ..log import ProducerState
from .postgres_unit import Needs, Run, Unit

# Streams that we remember, about a kilobyte each; of the others the rows are read before each append.
STREAMS_MAX: Final = 20_000
# Runs and producers of one stream: beyond that it is not one that somebody alone writes to.
MEMBERS_MAX: Final = 100
# A stream that another process writes to, too, is not guessed at for this long: a wrong guess costs a
# round trip, as much as a right one saves.
CONTENDED_S: Final = 1.0


@dataclass(slots=True)
class _Family:
    """A stream's rows as they were committed."""

    runs: dict[str, Run] = field(default_factory=dict[str, Run])
    producers: dict[str, ProducerState] = field(default_factory=dict[str, ProducerState])
    contended_until: float = 0.0


class Known:
    """Families by their root's row id, the least recently used first."""

    def __init__(self) -> None:
        self._families: OrderedDict[int, _Family] = OrderedDict()
        self._roots: dict[str, int] = {}

    def unit_for(self, needs: Iterable[Needs]) -> Unit | None:
        """A unit of copies that holds all that is needed; None if something is not known."""
        unit = Unit()
        now = time.monotonic()
        for need in needs:
            if need.creates or need.families:
                return None
            for run_id in need.runs:
                root = self._roots.get(run_id)
                family = self._families.get(root) if root is not None else None
                if family is None or now < family.contended_until:
                    return None
                self._lend(family, run_id, unit)
            for run_id, producer in need.producers:
                root = self._roots[run_id]
                state = self._families[root].producers.get(producer)
                if state is None:
                    return None
                unit.producers[root, producer] = state
        return unit

    @staticmethod
    def _lend(family: _Family, run_id: str, unit: Unit) -> None:
        run = family.runs[run_id]
        if run.run_id in unit.runs:
            return
        unit.know(copy.copy(run))
        if run.root not in unit.roots:
            root = next(one for one in family.runs.values() if one.id == run.root)
            unit.know(copy.copy(root))

    def keep(self, unit: Unit) -> None:
        """Remember what a unit has committed; from now on its rows are ours."""
        touched = {run.root for run in unit.changed_runs.values()}
        for root_id in touched:
            root = unit.roots[root_id]
            family = self._families.get(root_id)
            before = family.runs[root.run_id].revision if family is not None else -1
            if family is None or root.revision != before + 1 or root.ended is not None:
                # Others have written in between, or nobody will again.
                self._forget(root_id)
                if root.ended is not None:
                    continue
                family = self._families[root_id] = _Family(
                    contended_until=family.contended_until if family else 0.0
                )
            self._families.move_to_end(root_id)
            members = [run for run in unit.runs.values() if run.root == root_id]
            for run in members:
                family.runs[run.run_id] = run
                self._roots[run.run_id] = root_id
        for (root_id, producer), state in unit.producers.items():
            if root_id in touched and root_id in self._families:
                self._families[root_id].producers[producer] = state
        for root_id in touched & self._families.keys():
            family = self._families[root_id]
            if max(len(family.runs), len(family.producers)) > MEMBERS_MAX:
                self._forget(root_id)
        while len(self._families) > STREAMS_MAX:
            self._forget(next(iter(self._families)))

    def was_wrong(self, unit: Unit) -> None:
        """What the unit was made of is not so any more: somebody else writes to these streams."""
        until = time.monotonic() + CONTENDED_S
        for root_id in unit.roots.keys() & self._families.keys():
            self._families[root_id].contended_until = until

    def _forget(self, root_id: int) -> None:
        family = self._families.pop(root_id, None)
        for run_id in family.runs if family else ():
            self._roots.pop(run_id, None)
