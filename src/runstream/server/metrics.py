"""The figures of one server process, in Prometheus' format.

Counting is plain arithmetic on this object, all in one event loop; what a scrape needs beyond that is
worked out when it comes. So a figure costs well under a microsecond where records pass.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

# From a page in memory to a disk that is stuck, about two steps a factor of ten.
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
# A client may send any method: a label must not grow with what strangers invent.
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Lag:
    """How far subscribers are behind the newest record of their streams, in records."""

    max: int = 0
    total: int = 0


class Histogram:
    """Counts of times, by their length."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.sum_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative, as Prometheus wants them."""
        found: list[tuple[str, float]] = []
        total = 0
        for limit, count in zip((*map(str, SECONDS), "+Inf"), self.counts, strict=True):
            total += count
            found.append((limit, total))
        return found


class Metrics:
    """Counts what passes; cheap enough for every request."""

    def __init__(self) -> None:
        self._appends = Histogram()
        self._records_in = 0
        self._bytes_in = 0
        self._records_out = 0
        self._bytes_out = 0
        self._subscribers = 0
        self._subscriptions = 0
        self._dropped = 0
        self._cut: Counter[str] = Counter()
        self._gaps: Counter[str] = Counter()
        self._answers: Counter[tuple[str, str, int]] = Counter()
        self._answer_seconds: dict[str, Histogram] = {}
        self._open_runs: Mapping[str, int] = {}
        self._expired: Counter[str] = Counter()
        self._runs_removed = 0
        self._records_trimmed = 0
        self._lag: Callable[[], Lag] = Lag

    # --- the hot path ------------------------------------------------------------------------------

    def appended(self, records: int, size_bytes: int, seconds: float) -> None:
        """A batch is stored."""
        self._records_in += records
        self._bytes_in += size_bytes
        self._appends.observe(seconds)

    def delivered(self, records: int, size_bytes: int) -> None:
        """Frames were handed to one subscriber."""
        self._records_out += records
        self._bytes_out += size_bytes

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request is done; `route` is the pattern, not the address. Status 0: the client was gone."""
        self._answers[route, method if method in METHODS else "other", status] += 1
        found = self._answer_seconds.get(route)
        if found is None:
            found = self._answer_seconds[route] = Histogram()
        found.observe(seconds)

    # --- what is rarer -----------------------------------------------------------------------------

    def subscribed(self) -> None:
        """A subscriber came."""
        self._subscribers += 1
        self._subscriptions += 1

    def unsubscribed(self) -> None:
        """A subscriber went."""
        self._subscribers -= 1

    def cut(self, reason: str) -> None:
        """A subscriber was cut off. `reason` is one of a few words of ours."""
        self._cut[reason] += 1

    def gap(self, reason: str) -> None:
        """A subscriber was told of records that it cannot get. `reason` as in the gap."""
        self._gaps[reason] += 1

    def dropped(self, records: int) -> None:
        """A producer has said that it dropped records."""
        self._dropped += records

    def opened(self, runs: Mapping[str, int]) -> None:
        """How many runs of each status are open."""
        self._open_runs = runs

    def expired(self, status: str) -> None:
        """A lapsed lease has made its run `stalled` or `lost`."""
        self._expired[status] += 1

    def trimmed(self, records: int) -> None:
        """Retention has dropped records of a run."""
        self._records_trimmed += records

    def removed(self, runs: int) -> None:
        """Retention has removed finished runs."""
        self._runs_removed += runs

    def watch_lag(self, lag: Callable[[], Lag]) -> None:
        """Ask `lag` at each scrape."""
        self._lag = lag

    # --- a scrape ----------------------------------------------------------------------------------

    def expose(self) -> bytes:
        """All figures as text, `CONTENT_TYPE`; docs/operations.md explains each."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterable[Metric]:
        """What the Prometheus client asks of a collector."""
        lag = self._lag()
        for name, text, value in (
            ("runstream_records_in", "Records stored for producers.", self._records_in),
            ("runstream_bytes_in", "Bytes of the bodies that held them.", self._bytes_in),
            ("runstream_records_out", "Records sent to subscribers.", self._records_out),
            ("runstream_bytes_out", "Bytes of their frames.", self._bytes_out),
            ("runstream_subscriptions", "Subscribers that came.", self._subscriptions),
            ("runstream_records_dropped", "Records that producers dropped.", self._dropped),
            ("runstream_records_trimmed", "Records that retention dropped.", self._records_trimmed),
            ("runstream_runs_removed", "Runs that retention removed.", self._runs_removed),
        ):
            yield CounterMetricFamily(name, text, value)
        for name, text, value in (
            ("runstream_subscribers", "Subscribers now.", self._subscribers),
            ("runstream_subscriber_lag_records_max", "Records the last one is behind.", lag.max),
            ("runstream_subscriber_lag_records_sum", "Records all are behind.", lag.total),
        ):
            yield GaugeMetricFamily(name, text, value)
        yield _labelled_gauge("runstream_open_runs", "Runs not ended.", "status", self._open_runs)
        yield _labelled("runstream_subscribers_cut", "Subscribers cut off.", "reason", self._cut)
        yield _labelled("runstream_gaps", "Gaps told to subscribers.", "reason", self._gaps)
        yield _labelled("runstream_leases_expired", "Lapsed leases.", "status", self._expired)
        appends = HistogramMetricFamily(
            "runstream_append_seconds", "From a batch's arrival until it is durable."
        )
        appends.add_metric((), self._appends.buckets(), self._appends.sum_s)
        yield appends
        yield from self._requests()

    def _requests(self) -> Iterable[Metric]:
        answers = CounterMetricFamily(
            "runstream_requests", "Requests done.", labels=("route", "method", "status")
        )
        for (route, method, status), count in self._answers.items():
            answers.add_metric((route, method, str(status)), count)
        yield answers
        seconds = HistogramMetricFamily(
            "runstream_request_seconds", "How long they took.", labels=("route",)
        )
        for route, found in self._answer_seconds.items():
            seconds.add_metric((route,), found.buckets(), found.sum_s)
        yield seconds


def _labelled(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family


def _labelled_gauge(name: str, text: str, label: str, counts: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=(label,))
    for value, count in counts.items():
        family.add_metric((value,), count)
    return family
