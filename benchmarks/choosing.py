"""``python -m benchmarks.choosing [BENCH.json]``: puts a log of each kind to every promise of the conformance
suite, and writes the tables of docs/choosing-a-log.md from the result and, if it is given, from a measurement
of the row ``each_log``.

The exit code is 1, and nothing is written, when a promise is broken.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.logs import LOGS
from benchmarks.rows import ROOT
from runstream.conformance import log_factory, run_checks
from runstream.conformance.check import REMOTE_CHECK_S_MAX, Outcome

PAGE = ROOT / "docs" / "choosing-a-log.md"
CELLS = {"kept": "✓", "not_applicable": "–"}
FIGURES = {
    "append_per_s": ("records/s appended", "{:,.0f}"),
    "wake_p50_ms": ("ms until another process has one", "{:.1f}"),
    "catch_up_per_s": ("records/s caught up", "{:,.0f}"),
}


async def outcomes_of(name: str) -> list[Outcome]:
    """What becomes of every check on a log of that kind. Raises SystemExit for a broken promise."""
    found: list[Outcome] = []
    with (
        tempfile.TemporaryDirectory(prefix="choosing-", ignore_cleanup_errors=True) as folder,
        LOGS[name](Path(folder)) as url,
    ):
        async for outcome in run_checks(log_factory(url), seconds_max=REMOTE_CHECK_S_MAX):
            if outcome.status == "broken":
                raise SystemExit(f"{name} breaks {outcome.name}: {outcome.why}")
            found.append(outcome)
    print(f"{name}: {len(found)} promises", file=sys.stderr, flush=True)
    return found


def table(rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" + "|:-:" * len(LOGS) + "|")
    return "\n".join(lines)


def summary(results: dict[str, list[Outcome]]) -> str:
    """How many promises of each area every log keeps; all of them is a tick."""
    first = next(iter(results.values()))
    rows = [["promises about", *results]]
    for area in dict.fromkeys(outcome.area for outcome in first):
        row = [area]
        for outcomes in results.values():
            here = [outcome.status for outcome in outcomes if outcome.area == area]
            kept = here.count("kept")
            row.append(f"{kept} of {len(here)}" if kept < len(here) else f"✓ {kept}")
        rows.append(row)
    return table(rows)


def every_promise(results: dict[str, list[Outcome]]) -> str:
    """A line for each promise."""
    rows = [["promise", *results]]
    for same in zip(*results.values(), strict=True):
        promise = same[0].promise.replace("|", "\\|")
        rows.append([promise, *(CELLS[outcome.status] for outcome in same)])
    return table(rows)


def speed(bench: dict[str, Any]) -> str:
    """What was measured, and where."""
    (row,) = (row for row in bench["rows"] if row["name"] == "each_log")
    figures = {figure["field"]: figure["ours"] for figure in row["figures"]}
    rows = [["", *LOGS]]
    for field, (what, shown) in FIGURES.items():
        found = (figures.get(f"{name}_{field}") for name in LOGS)
        rows.append([what, *("–" if value is None else shown.format(value) for value in found)])
    machine = bench["machine"]
    load = f"{machine['load_before']:g} to {machine['load_after']:g}"
    where = (
        f"{machine['cores']} cores of {machine['cpu']}, all on one machine with a load of {load};"
        f" one `fdatasync` of its disk takes {machine['fdatasync_ms']:g} ms. {bench['date'][:10]}."
    )
    return f"{table(rows)}\n\n{where}"


def put(page: str, name: str, text: str) -> str:
    """The page with what lies between its two markers of that name replaced."""
    begin, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}{text}{end}{tail}"


def main() -> None:
    results = {name: asyncio.run(outcomes_of(name)) for name in LOGS}
    page = PAGE.read_text(encoding="utf-8")
    page = put(page, "summary", summary(results))
    page = put(page, "promises", every_promise(results))
    if len(sys.argv) > 1:
        bench = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        page = put(page, "speed", speed(bench))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
