"""Each kind of log on this machine, one after the other: appends of 64 by one producer, each acknowledged
before the next one; the way to another process; catching up. What a server stores is in SQLite.
"""

import asyncio
import tempfile
from pathlib import Path

from benchmarks.logs import LOGS
from benchmarks.measure import arguments, emit
from benchmarks.ours.engine_log import BATCH, append, catch_up, drafts_of, to_other_process
from runstream.logs import open_log


async def measure(url: str, few: int) -> dict[str, float]:
    log = await asyncio.to_thread(open_log, url)
    count = 32_000 // few
    batches = [drafts_of("appended", at, BATCH) for at in range(0, count, BATCH)]
    figures = {"append_per_s": round(count / await append(log, "appended", batches))}
    waking = {} if url == "memory:" else await to_other_process(log, url, 500 // few)
    caught_up = await catch_up(log, 200_000 // few)
    await log.aclose()
    return {**figures, **waking, **caught_up}


if __name__ == "__main__":
    args = arguments(__doc__).parse_args()
    figures: dict[str, float] = {}
    for name, serving in LOGS.items():
        folder = Path(tempfile.mkdtemp(prefix="log-", dir=args.scratch.absolute()))
        with serving(folder) as url:
            found = asyncio.run(measure(url, 10 if args.quick else 1))
        figures |= {f"{name}_{figure}": value for figure, value in found.items()}
    emit("each_log", **figures)
