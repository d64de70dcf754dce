"""The newest records of the streams that this process writes, so that live readers need no disk.

Bounded in bytes, per stream and in all; whatever is not here is read from the file.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from ..log import Page
from ..record import Cursor, Draft
from .sqlite_store import Chunk, Stored

# One stream: ninety thousand tokens, so that whoever follows a burst need not decode what was just
# encoded. Half of the memory for all, so that one busy stream does not push out every other.
STREAM_SIZE_BYTES_MAX: Final = 32 * 1024 * 1024
# What a record costs in memory beside its JSON, measured.
RECORD_OVERHEAD_BYTES: Final = 250
# All streams of a process together.
SIZE_BYTES_MAX: Final = 64 * 1024 * 1024
# Streams whose end we remember (a few hundred bytes each), with or without records.
STREAMS_MAX: Final = 10_000


class _Stream:
    __slots__ = ("chunks", "chunks_end", "generation", "last_seq", "size_bytes", "sizes", "starts")

    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.last_seq = 0
        # Consecutive, up to `chunks_end`, which is behind `last_seq` after another process wrote.
        self.chunks: list[Chunk] = []
        self.chunks_end = 0
        self.starts: list[int] = []
        self.sizes: list[int] = []
        self.size_bytes = 0


class Recent:
    """Streams by root run id, the least recently used first. Safe for any thread.

    `removals` is a number that grows whenever any process removes records: then nothing here is trusted
    any more.
    """

    def __init__(self, removals: Callable[[], int]) -> None:
        self._lock = threading.Lock()
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._size_bytes = 0
        self._removals = removals
        self._removals_seen = removals()

    def add(self, stored: Stored) -> None:
        """What this process has just committed."""
        with self._lock:
            stream = self._stream(stored.root_run_id, stored.generation)
            if stream.chunks_end != stored.chunks[0].first_seq - 1:
                self._drop_chunks(stream)  # another process wrote in between
            for chunk in stored.chunks:
                stream.chunks.append(chunk)
                stream.starts.append(chunk.first_seq)
                size_bytes = chunk.size_bytes + len(chunk.drafts) * RECORD_OVERHEAD_BYTES
                stream.sizes.append(size_bytes)
                stream.size_bytes += size_bytes
                self._size_bytes += size_bytes
            stream.chunks_end = stored.last_seq
            stream.last_seq = max(stream.last_seq, stored.last_seq)
            self._shrink(stream)

    def saw_tail(self, root_run_id: str, generation: str, last_seq: int) -> None:
        """What a look at the file found: some process has written up to `last_seq`."""
        with self._lock:
            stream = self._stream(root_run_id, generation)
            stream.last_seq = max(stream.last_seq, last_seq)
            self._shrink(stream)

    def tail(self, root_run_id: str) -> int | None:
        """The newest seq that this process knows of; None if it knows nothing of the stream."""
        with self._lock:
            self._forget_removed()
            stream = self._streams.get(root_run_id)
            return None if stream is None else stream.last_seq

    def read(self, root_run_id: str, after: Cursor, limit: int) -> Page | None:
        """A page, if its first record is here, and unless its last one may be the end of the stream."""
        with self._lock:
            self._forget_removed()
            stream = self._streams.get(root_run_id)
            if stream is None or not stream.starts or after.seq + 1 < stream.starts[0]:
                return None
            if after.generation is not None and after.generation != stream.generation:
                return None  # the file knows which one is right
            at = bisect_right(stream.starts, after.seq + 1) - 1
            drafts: list[Draft] = []
            for chunk in stream.chunks[at:]:
                skip = after.seq + 1 - chunk.first_seq if not drafts else 0
                drafts.extend(chunk.drafts[skip : skip + limit - len(drafts)])
                if len(drafts) >= limit:
                    break
            if not drafts or (drafts[-1].is_terminal and drafts[-1].run_id == root_run_id):
                return None
            return Page(stream.generation, after.seq + 1, drafts, ended=False)

    def _stream(self, root_run_id: str, generation: str) -> _Stream:
        stream = self._streams.get(root_run_id)
        if stream is None or stream.generation != generation:
            if stream is not None:
                self._drop_chunks(stream)
            self._streams[root_run_id] = stream = _Stream(generation)
        self._streams.move_to_end(root_run_id)
        return stream

    def _shrink(self, stream: _Stream) -> None:
        surplus = 0
        while stream.size_bytes > STREAM_SIZE_BYTES_MAX and surplus < len(stream.chunks) - 1:
            stream.size_bytes -= stream.sizes[surplus]
            self._size_bytes -= stream.sizes[surplus]
            surplus += 1
        del stream.chunks[:surplus]
        del stream.starts[:surplus]
        del stream.sizes[:surplus]
        while self._size_bytes > SIZE_BYTES_MAX or len(self._streams) > STREAMS_MAX:
            if len(self._streams) == 1:
                break  # one record may be larger than all we want to hold
            _, oldest = self._streams.popitem(last=False)
            self._drop_chunks(oldest)

    def _drop_chunks(self, stream: _Stream) -> None:
        self._size_bytes -= stream.size_bytes
        stream.size_bytes = 0
        stream.chunks.clear()
        stream.starts.clear()
        stream.sizes.clear()

    def _forget_removed(self) -> None:
        removals = self._removals()
        if removals != self._removals_seen:
            self._removals_seen = removals
            self._streams.clear()
            self._size_bytes = 0
