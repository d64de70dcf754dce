"""The server keeps the runs of its log within their limits, in the background."""

from __future__ import annotations

from ..keeper import Keeper
from .site import Site


async def enforce_retention(site: Site) -> None:
    """Enforce the server's limits and those of single runs, until cancelled or the log is closed."""
    keeper = Keeper(
        site.log,
        site.options.retention,
        on_trimmed=site.metrics.trimmed,
        on_removed=site.metrics.removed,
    )
    await keeper.keep()
