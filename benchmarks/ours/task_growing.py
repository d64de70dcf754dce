"""A Task whose list grows to 2 000, replaced by a longer copy each time.

Until all is stored with FULL sync; then read and folded.
"""

import asyncio
import time
from pathlib import Path

from benchmarks.measure import arguments, emit, max_rss_mib
from runstream import Task, connect, drain, process, start_run

RUN = "task-growing"


async def grow(url: str, count: int) -> tuple[float, float]:
    """Seconds until the last update is queued, and until all of them are stored."""
    async with (
        start_run("task_growing", url=url, run_id=RUN),
        Task("token-stream", state={"tokens": []}) as task,
    ):
        await drain()
        start = time.perf_counter()
        for index in range(count):
            token = f"token{index:05}"
            await task.update_state({"tokens": task.state["tokens"] + [token]})
        queued = time.perf_counter() - start
        await drain()
        return queued, time.perf_counter() - start


async def fold(url: str) -> tuple[float, list[int], list[int]]:
    """Seconds to read and fold all; the bytes of each delta; how long the list was in each state."""
    deltas: list[int] = []
    lengths: list[int] = []
    async with connect(url) as streams:
        start = time.perf_counter()
        async for state in streams.handler(RUN).tasks("token-stream"):
            lengths.append(len(state["tokens"]))
            if state.record.kind == "task.progress":
                deltas.append(len(state.record.raw))
        return time.perf_counter() - start, deltas, lengths


def measure(file: Path, count: int) -> None:
    url = f"sqlite:{file}"
    queued, stored = asyncio.run(grow(url, count))
    seconds, deltas, lengths = asyncio.run(fold(url))
    process.close_publishers()
    emit(
        "task_growing",
        updates_per_s=round(count / stored),
        updates_per_s_queued=round(count / queued),
        states_folded_per_s=round(count / seconds),
        delta_bytes_first=deltas[0],
        delta_bytes_last=deltas[-1],
        delta_growth_bytes=deltas[-1] - deltas[0],
        # The file when it is closed, its empty pages and tables included.
        stored_bytes_per_update=round(file.stat().st_size / count),
        sent=count,
        received=len(lengths) - 2,  # started and completed stream the state, too
        in_order=lengths == [*range(count + 1), count],
        max_rss_mib=max_rss_mib(),
    )


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    measure(args.scratch / "events.db", 200 if args.quick else 2000)
