"""The writing thread and a publisher: what it says, and when."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from runstream.log import Appended, PendingAppend, Producer
from runstream.logs.sqlite import SqliteLog
from runstream.record import make_draft


async def test_a_batch_is_prepared_before_it_is_visible_and_visible_before_it_is_done(
    tmp_path: Path,
) -> None:
    path = tmp_path / "events.db"
    log = SqliteLog(path)
    await log.open("r", producer=None, workflow="w")
    seen: list[tuple[object, int]] = []

    def see(what: object) -> None:
        with sqlite3.connect(path) as other:
            (count,) = other.execute("SELECT count(*) FROM chunk").fetchone()
        other.close()
        seen.append((what, count))

    drafts = [make_draft("r", "token", {"n": 1})]
    producer = Producer("p", epoch=0, number=1)
    waiting = [PendingAppend("r", drafts, producer, False, see, lambda: see("prepared"))]

    def take() -> list[PendingAppend]:
        taken = waiting.copy()
        waiting.clear()
        return taken

    log.fetch_from(take)()
    await log.aclose()
    assert seen == [("prepared", 0), (Appended(1, 1), 1)]
