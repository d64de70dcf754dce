"""The figures of a server as `/metrics` tells them: read from the text, and compared between two moments."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Final

# `name{label="value",…} number`, as in Prometheus' text format.
_SAMPLE: Final = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)", re.ASCII)
_LABEL: Final = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

Labels = frozenset[tuple[str, str]]


class Figures:
    """One scrape, taken at `moment` (monotonic seconds)."""

    def __init__(self, text: str, moment: float) -> None:
        self.moment = moment
        self._values: dict[str, dict[Labels, float]] = {}
        for line in text.splitlines():
            found = _SAMPLE.fullmatch(line)
            if found is not None:
                labels = frozenset(_LABEL.findall(found[2] or ""))
                self._values.setdefault(found[1], {})[labels] = float(found[3])

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def total(self, name: str, **labels: str) -> float:
        """The sum over all samples that carry these labels."""
        wanted = labels.items()
        return sum(value for has, value in self._values.get(name, {}).items() if wanted <= set(has))

    def by(self, name: str, label: str) -> Mapping[str, float]:
        """Sums by the values of one label."""
        sums: dict[str, float] = {}
        for has, value in self._values.get(name, {}).items():
            key = dict(has).get(label, "")
            sums[key] = sums.get(key, 0.0) + value
        return sums


def per_second(name: str, before: Figures, now: Figures) -> float:
    """How fast a counter rises. A server that was started anew meanwhile counts from 0."""
    rise = now.total(name) - before.total(name)
    return max(rise if rise >= 0 else now.total(name), 0.0) / max(now.moment - before.moment, 1e-9)


def quantile(name: str, share: float, before: Figures, now: Figures) -> float | None:
    """The value that this share of a histogram's new entries does not exceed; None without entries.

    Between two limits of the histogram it is drawn straight, as Prometheus does.
    """
    old, new = before.by(f"{name}_bucket", "le"), now.by(f"{name}_bucket", "le")
    limits = sorted((math.inf if limit == "+Inf" else float(limit), limit) for limit in new)
    counts = [(limit, max(new[text] - old.get(text, 0.0), 0.0)) for limit, text in limits]
    if not counts or counts[-1][1] == 0:
        return None
    wanted = share * counts[-1][1]
    lower, below = 0.0, 0.0
    for limit, count in counts:
        if count >= wanted:
            if limit == math.inf or count == below:
                return lower
            return lower + (limit - lower) * (wanted - below) / (count - below)
        lower, below = limit, count
    return lower
