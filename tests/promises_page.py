"""What docs/choosing-a-log.md says that each kind of log promises."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[1] / "docs" / "choosing-a-log.md"
STATUSES: Final = {"✓": "kept", "–": "not_applicable"}


@cache
def statuses() -> dict[str, dict[str, str]]:
    """By kind of log, the status of each promise, in the page's order."""
    table = PAGE.read_text(encoding="utf-8").partition("<!-- promises -->\n")[2]
    lines = table.partition("\n<!-- /promises -->")[0].splitlines()
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    return {
        name: {row[0]: STATUSES[row[place]] for row in rows}
        for place, name in enumerate(head[1:], 1)
    }
