"""An import that may be killed at any point and started again: every row is in the stream once."""

import os
import subprocess
import sys

from runstream import connect, publish, start_run

ROWS = [{"row": number} for number in range(1, 501)]


def import_rows(run_id: str, *, die_after: int | None = None) -> None:
    """Publish the rows that are not stored yet; `die_after` stands for a crash."""
    with start_run("import", run_id=run_id, producer="importer", lease=0.5, grace=60) as run:
        with connect() as streams:
            last = list(streams.subscribe(run.run_id, kinds="row", last=1, follow=False))
        stored = last[0].data["row"] if last else 0
        for row in ROWS[stored:]:
            publish(row, kind="row")
            if row["row"] == die_after:
                os._exit(9)  # as hard as kill -9: nothing is flushed


if __name__ == "__main__":
    if len(sys.argv) > 1:
        import_rows(sys.argv[1], die_after=300)
    today = f"import-{os.getpid()}"  # in earnest: the day, or the name of the file
    subprocess.run([sys.executable, __file__, today], check=False)
    import_rows(today)
    with connect() as streams:
        rows = [r.data for r in streams.subscribe(today, kinds="row") if r.kind == "row"]
    print(f"{len(rows)} rows stored, each once and in order: {rows == ROWS}")
    assert rows == ROWS
