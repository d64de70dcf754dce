"""What is left of a run: the machine, a table for people, JSON for programs."""

import datetime as dt
import os
import platform
import sqlite3
from pathlib import Path
from typing import Any

from benchmarks import disk
from benchmarks.harness import Result, Side

HEAD = ("row", "figure", "ours", "peer", "", "ours is", "target", "")


def machine(folder: Path) -> dict[str, Any]:
    """What the figures depend on. The load says what else was running; read figures with it."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite": sqlite3.sqlite_version,
        "load_before": round(os.getloadavg()[0], 2),
        **disk.probe(folder),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def as_json(
    machine: dict[str, Any], results: list[Result], *, rounds: int, quick: bool
) -> dict[str, Any]:
    """Everything measured: the medians beside their targets, and every round of every program."""
    return {
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "machine": {**machine, "load_after": round(os.getloadavg()[0], 2)},
        "rounds": rounds,
        "quick": quick,
        "rows": [_row_json(result) for result in results],
    }


def _row_json(result: Result) -> dict[str, Any]:
    row, peer = result.row, result.peer
    return {
        "name": row.name,
        "title": row.title,
        "figures": [
            {
                "field": figure.field,
                "unit": figure.unit,
                "ours": (ours := result.ours.median(figure.field)),
                "peer": (theirs := peer.median(figure.field) if peer else None),
                "times_as_good": figure.ratio(ours, theirs),
                "target": figure.goal() or None,
                "met": figure.met(ours, theirs),
            }
            for figure in row.figures
        ],
        "ours": _side_json(result.ours),
        "peer": {"peer": row.peer and row.peer.peer, **_side_json(peer)} if peer else None,
    }


def _side_json(side: Side) -> dict[str, Any]:
    return {"missing": side.missing, "failed": side.failed, "rounds": side.rounds}


def table(results: list[Result]) -> str:
    """One line a figure; then, under the table, why a number is missing and what was stubbed."""
    lines = [line for result in results for line in _lines(result)]
    widths = [max(len(line[i]) for line in [HEAD, *lines]) for i in range(len(HEAD))]
    right = (False, False, True, True, False, True, True, False)

    def laid_out(line: tuple[str, ...]) -> str:
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([laid_out(HEAD), rule, *map(laid_out, lines), "", *_notes(results)])


def _lines(result: Result) -> list[tuple[str, ...]]:
    lines: list[tuple[str, ...]] = []
    for figure in result.row.figures:
        ours = result.ours.median(figure.field)
        peer = result.peer.median(figure.field) if result.peer else None
        ratio = figure.ratio(ours, peer)
        verdict = {True: "met", False: "MISSED", None: ""}[figure.met(ours, peer)]
        lines.append(
            (
                "" if lines else result.row.name,
                figure.unit,
                _number(ours),
                _number(peer),
                result.row.peer.peer or "" if result.row.peer and peer is not None else "",
                f"{ratio:.2f}x" if ratio else "",
                figure.goal(),
                verdict,
            )
        )
    return lines


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.4g}"


def _notes(results: list[Result]) -> list[str]:
    notes: dict[str, list[str]] = {}  # one line a text, however many rows say it
    for result in results:
        peer = (result.row.peer and result.row.peer.peer) or "peer"
        for who, side in (("ours", result.ours), (peer, result.peer)):
            for text in filter(None, (side.reason(), side.note()) if side else ()):
                notes.setdefault(f"{who}: {text}", []).append(result.row.name)
    return [f"{', '.join(names)}: {text}" for text, names in notes.items()]
