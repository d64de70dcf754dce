"""A disk that fills up while records are written: a clear error, nothing acknowledged is lost, and on it
goes when there is space again.
"""

from __future__ import annotations

import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from programs import run_program

# The test waits for a process of its own, and nothing else runs.
pytestmark = pytest.mark.allow_blocking

# Appends until the log refuses, says so, waits for space, sends the refused batch again, and goes on.
FILL = """
import asyncio, resource, signal, sys
from pathlib import Path
from runstream.errors import LogUnavailable
from runstream.log import Producer
from runstream.logs.sqlite import SqliteLog
from runstream.record import Cursor, make_draft

BATCH = 20

async def append(log, epoch, number):
    drafts = [make_draft("r", "token", {"n": number + i, "text": "x" * 500}) for i in range(BATCH)]
    return await log.append("r", drafts, producer=Producer("p", epoch, number))

async def main():
    log = SqliteLog(Path(sys.argv[1]))
    epoch = (await log.open("r", producer="p", workflow="w")).epoch
    if sys.argv[2] == "limit":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, hard))
    number, refusals = 1, 0
    while True:
        try:
            await append(log, epoch, number)
        except LogUnavailable as error:
            print(error, flush=True)
            refusals += 1
            if refusals == 3:
                break
        else:
            number += BATCH
    assert (await log.info("r")).last_seq == number - 1
    sys.stdin.readline()
    if sys.argv[2] == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    await append(log, epoch, number)
    last = number + BATCH - 1
    again = await append(log, epoch, number)
    assert again.duplicates == BATCH and again.last_seq == last, again
    await log.aclose()
    log = SqliteLog(Path(sys.argv[1]))
    seq = 0
    while (page := await log.read("r", after=Cursor(None, seq))).drafts:
        for draft in page.drafts:
            seq += 1
            assert bytes(draft.data).startswith(b'{"n":%d,' % seq), (seq, bytes(draft.data)[:20])
    assert seq == last, (seq, last)
    await log.aclose()
    print(seq)

asyncio.run(main())
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path | None]:
    """A disk of 4 MB; None where we may not mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:  # (and if a program of a failed test still has it)
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_loses_nothing_and_is_told(tmp_path: Path, small_disk: Path | None) -> None:
    # Without a disk of our own, a limit on the size of the files does: another error, the same course.
    path = (small_disk or tmp_path) / "events.db"
    ballast = path.with_name("ballast")
    ballast.write_bytes(bytes(1_500_000))
    with run_program(FILL, path, "limit" if small_disk is None else "disk") as program:
        for _ in range(3):
            message = program.read_line()
            assert str(path) in message
            assert "full" in message or "no space left" in message
        ballast.unlink()
        program.tell("there is space again")
        assert int(program.finish()) > 1000


def test_a_file_that_may_grow_no_more_loses_nothing_and_is_told(tmp_path: Path) -> None:
    with run_program(FILL, tmp_path / "events.db", "limit") as program:
        for _ in range(3):
            assert "is the disk full or failing?" in program.read_line()
        program.tell("it may grow again")
        assert int(program.finish()) > 1000
