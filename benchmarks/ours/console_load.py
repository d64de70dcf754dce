"""The console in Chromium: its first paint, its size, and 5 000 records a second into an open run."""

import asyncio
import gzip
import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from playwright.sync_api import Page, sync_playwright

from benchmarks.measure import arguments, emit
from benchmarks.ours.ingest_raw import open_runs
from benchmarks.rows import ROOT
from benchmarks.served import serving
from runstream.logs import open_log
from runstream.record import make_draft

FILES = ROOT / "src" / "runstream" / "server" / "console_files"
RATE = 5000
BATCHES_PER_S = 20
WATCH = """
window.longTasks = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) longTasks.push(entry.duration);
}).observe({ entryTypes: ["longtask"] });
"""


async def publish(url: str, seconds: float) -> int:
    """Records at the rate, in batches, into the log behind the server."""
    log = open_log(url)
    draft = make_draft("r", "token", {"text": "word "}, correlation_id="gen-1")
    begun, sent = time.monotonic(), 0
    for number in range(round(seconds * BATCHES_PER_S)):
        await asyncio.sleep(max(begun + number / BATCHES_PER_S - time.monotonic(), 0))
        await log.append("r", [draft] * (RATE // BATCHES_PER_S))
        sent += RATE // BATCHES_PER_S
    await log.aclose()
    return sent


def first_paint_ms(page: Page, url: str) -> float:
    page.goto(url)
    page.get_by_role("heading", name="Runs").wait_for()
    paint = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    page.wait_for_function(paint)
    return round(float(page.evaluate(paint)), 1)


def main() -> None:
    args = arguments(__doc__ or "").parse_args()
    program = shutil.which("chromium")
    if program is None:
        sys.exit("there is no chromium here")
    seconds = 2.0 if args.quick else 10.0
    url = f"sqlite:{args.scratch / 'events.db'}"
    size = sum(len(gzip.compress(path.read_bytes())) for path in FILES.rglob("*") if path.is_file())
    with serving(url) as served, sync_playwright() as playwright:
        open_runs(served, ["r"])
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        paint_ms = first_paint_ms(page, served.url)
        page.goto(f"{served.url}/#/runs/r?tab=records")
        page.reload()
        page.get_by_role("tab", name="Records").wait_for()
        page.evaluate(WATCH)
        sent = _in_thread(url, seconds)
        page.get_by_text(f"{sent:,} of {sent:,}").wait_for(timeout=30_000)
        tasks: list[float] = json.loads(page.evaluate("JSON.stringify(longTasks)"))
        browser.close()
    emit(
        "console_load",
        first_paint_ms=paint_ms,
        size_kb=round(size / 1000, 1),
        longest_task_ms=round(max(tasks, default=0.0), 1),
        long_tasks=len(tasks),
    )


def _in_thread(url: str, seconds: float) -> int:
    """(Playwright's own loop runs in this one.)"""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(publish(url, seconds))).result()


if __name__ == "__main__":
    main()
