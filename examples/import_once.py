"""An import that may be killed at any point and started again: every row is in the stream once."""

import os
import subprocess
import sys

from runstream import connect, publish, start_run

ROWS = [{"row": number} for number in range(1, 501)]


def import_rows(*, die_after: int | None = None) -> None:
    """Publish the rows that are not stored yet; `die_after` stands for a crash."""
    with start_run("import", run_id="import-1", producer="importer", lease=0.5, grace=60) as run:
        with connect() as streams:
            last = list(streams.subscribe(run.run_id, kinds="row", last=1, follow=False))
        stored = last[0].data["row"] if last else 0
        for row in ROWS[stored:]:
            publish(row, kind="row")
            if row["row"] == die_after:
                os._exit(9)  # as hard as kill -9: nothing is flushed


if __name__ == "__main__":
    if sys.argv[1:] == ["first try"]:
        import_rows(die_after=300)
    subprocess.run([sys.executable, __file__, "first try"], check=False)
    import_rows()
    with connect() as streams:
        rows = [r.data for r in streams.subscribe("import-1", kinds="row") if r.kind == "row"]
    print(f"{len(rows)} rows stored, each once and in order: {rows == ROWS}")
    assert rows == ROWS
