"""What every measured program shares: its arguments, its memory, its one line of JSON.

Only the standard library, because the peers' programs run in environments without ours.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path


def arguments(description: str) -> argparse.ArgumentParser:
    """The two arguments that the harness gives to every program."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, or less")
    parser.add_argument(
        "--scratch", type=Path, default=Path(), help="an empty folder on the disk to measure"
    )
    return parser


def max_rss_mib() -> float:
    """The most memory this process ever held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1024 * 1024 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return round(peak / unit, 1)


def call_us(call: Callable[[], object], count: int) -> list[float]:
    """Microseconds of each of `count` calls; the clock's own 0.05 µs or so is in it."""
    clock = time.perf_counter_ns
    costs: list[float] = []
    for _ in range(count):
        begin = clock()
        call()
        costs.append((clock() - begin) / 1000)
    return costs


def percentile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def emit(name: str, **fields: object) -> None:
    """Print the result: one line, the last one on standard output."""
    print(json.dumps({"name": name, **fields}), flush=True)
