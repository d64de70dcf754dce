"""What the processes on one SQLite log share beside it: whose turn it is to write, and how often records
were removed. A file of eight bytes; without it (a folder that we may not write) nothing breaks that a
reader depends on.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from .sqlite_file import LOCK_POLL_S

if sys.platform != "win32":  # there SQLite's own lock alone, fair enough between few processes
    import fcntl

# Fairness is not worth more: who holds its turn for longer has been stopped (Ctrl-Z), and SQLite's own
# lock decides without it.
TURN_S_MAX: Final = 1.0
_SIZE_BYTES: Final = 8


class Shared:
    """One process's view of the shared file. Created where it is missing, never removed."""

    def __init__(self, path: Path) -> None:
        self._file, writable = _open(path)
        self._takes_turns = sys.platform != "win32" and writable
        self._counts = writable or self._file is None
        # Without the file it counts our own removals only.
        self._count: mmap.mmap | bytearray = bytearray(_SIZE_BYTES)
        if self._file is not None:
            # Not closed with the file: readers may look at any time, even while the log closes.
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._count = mmap.mmap(self._file, _SIZE_BYTES, access=access)

    @contextlib.contextmanager
    def turn(self) -> Generator[None]:
        """Queue for the write lock: hold this from asking for the lock to having it.

        Who has just committed must queue behind the one that is waiting, so two saturating writers
        alternate. The system drops the claim with the process; it is never held while writing.
        """
        if self._file is None or not self._takes_turns:
            yield
            return
        deadline = time.monotonic() + TURN_S_MAX
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    break
                time.sleep(LOCK_POLL_S)
        try:
            yield
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)

    @property
    def removals(self) -> int:
        """Grows whenever any process trims or removes a stream. Costs no system call."""
        return int.from_bytes(self._count[:_SIZE_BYTES], "little")

    def add_removal(self) -> None:
        """Call it with the write lock held, before the commit; and again after it, for whoever looked
        in between.
        """
        if self._counts:
            self._count[:_SIZE_BYTES] = (self.removals + 1).to_bytes(_SIZE_BYTES, "little")

    def close(self) -> None:
        """Give the file up; `removals` may still be asked."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _open(path: Path) -> tuple[int | None, bool]:
    """The descriptor (None: there is no such file, nor may we make one), and whether we may write."""
    name = f"{path}-turn"
    binary = getattr(os, "O_BINARY", 0)
    for flags in (os.O_RDWR | os.O_CREAT | binary, os.O_RDONLY | binary):
        try:
            file = os.open(name, flags, 0o666)
        except OSError:
            continue
        writable = bool(flags & os.O_RDWR)
        if os.fstat(file).st_size < _SIZE_BYTES:
            try:
                # Real bytes: to touch a mapped hole on a full disk would kill the process.
                os.pwrite(file, bytes(_SIZE_BYTES), 0)
                # Whoever may write the log may take turns.
                Path(name).chmod(path.stat().st_mode & 0o777)
            except OSError:
                os.close(file)
                return None, False
        return file, writable
    return None, False
