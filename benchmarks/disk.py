"""How long the disk takes to make one small write durable: the floor under every append.

Run alone: ``python -m benchmarks.disk --scratch FOLDER``.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.measure import arguments, emit, percentile

PAGE = b"\0" * 4096  # one SQLite page


def probe(folder: Path, writes: int = 200) -> dict[str, float]:
    """Append `writes` pages to a new file in `folder`, each followed by ``fdatasync``."""
    sync = getattr(os, "fdatasync", os.fsync)  # macOS has only fsync
    times: list[float] = []
    with tempfile.NamedTemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(writes):
            begin = time.perf_counter()
            file.write(PAGE)
            sync(file.fileno())
            times.append((time.perf_counter() - begin) * 1000)
    return {
        "fdatasync_ms": round(statistics.median(times), 3),
        "fdatasync_p99_ms": round(percentile(times, 99), 3),
    }


if __name__ == "__main__":
    emit("disk", **probe(arguments("the disk's fdatasync time").parse_args().scratch))
