"""The newest records of the streams that this process writes, so that live readers need no disk.

Bounded in bytes, per stream and in all; whatever is not here is read from the file.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from typing import Final

from ..errors import GenerationChanged
from ..log import Page
from ..record import Cursor, Draft
from .sqlite_store import Chunk, Stored

# One stream: some ten thousand tokens, enough for a subscriber that is a moment behind.
STREAM_SIZE_BYTES_MAX: Final = 2 * 1024 * 1024
# All streams of a process together.
SIZE_BYTES_MAX: Final = 64 * 1024 * 1024
# Streams whose end we remember (a few hundred bytes each), with or without records.
STREAMS_MAX: Final = 10_000


class _Stream:
    __slots__ = ("chunks", "generation", "last_seq", "size_bytes", "starts")

    def __init__(self, generation: str) -> None:
        self.generation = generation
        self.last_seq = 0
        self.chunks: list[Chunk] = []
        self.starts: list[int] = []
        self.size_bytes = 0


class Recent:
    """Streams by root run id, the least recently written first. Safe for any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._streams: OrderedDict[str, _Stream] = OrderedDict()
        self._size_bytes = 0

    def add(self, stored: Stored) -> None:
        """What this process has just committed."""
        with self._lock:
            stream = self._streams.get(stored.root_run_id)
            if stream is None or stream.generation != stored.generation:
                stream = self._replace(stored.root_run_id, stored.generation)
            if stored.chunks[0].first_seq != stream.last_seq + 1:
                self._forget(stream)  # another process wrote in between
            for chunk in stored.chunks:
                stream.chunks.append(chunk)
                stream.starts.append(chunk.first_seq)
                stream.size_bytes += chunk.size_bytes
                self._size_bytes += chunk.size_bytes
            stream.last_seq = stored.last_seq
            self._streams.move_to_end(stored.root_run_id)
            self._shrink(stream)

    def saw_tail(self, root_run_id: str, last_seq: int) -> None:
        """What a look at the file found: another process has written up to `last_seq`."""
        with self._lock:
            stream = self._streams.get(root_run_id)
            if stream is None:
                stream = self._replace(root_run_id, "")
            stream.last_seq = max(stream.last_seq, last_seq)

    def tail(self, root_run_id: str) -> int | None:
        """The newest seq that this process knows of; None if it knows nothing of the stream."""
        stream = self._streams.get(root_run_id)
        return None if stream is None else stream.last_seq

    def forget(self, root_run_id: str) -> None:
        """The stream was trimmed or removed."""
        with self._lock:
            stream = self._streams.pop(root_run_id, None)
            if stream is not None:
                self._forget(stream)

    def read(self, root_run_id: str, after: Cursor, limit: int) -> Page | None:
        """A page, if its first record is here and the stream is not known to have ended."""
        with self._lock:
            stream = self._streams.get(root_run_id)
            if stream is None or not stream.starts or after.seq + 1 < stream.starts[0]:
                return None
            if after.generation is not None and after.generation != stream.generation:
                raise GenerationChanged(
                    f"the stream of run {root_run_id!r} was rebuilt",
                    first_seq=1,
                    generation=stream.generation,
                )
            at = bisect_right(stream.starts, after.seq + 1) - 1
            drafts: list[Draft] = []
            for chunk in stream.chunks[at:]:
                skip = after.seq + 1 - chunk.first_seq if not drafts else 0
                drafts.extend(chunk.drafts[skip : skip + limit - len(drafts)])
                if len(drafts) >= limit:
                    break
            if not drafts or drafts[-1].is_terminal:
                return None  # nothing here, or perhaps the end, which the file knows
            return Page(stream.generation, after.seq + 1, drafts, ended=False)

    def _replace(self, root_run_id: str, generation: str) -> _Stream:
        old = self._streams.pop(root_run_id, None)
        if old is not None:
            self._forget(old)
        self._streams[root_run_id] = stream = _Stream(generation)
        if len(self._streams) > STREAMS_MAX:
            _, oldest = self._streams.popitem(last=False)
            self._forget(oldest)
        return stream

    def _shrink(self, stream: _Stream) -> None:
        surplus = 0
        while stream.size_bytes > STREAM_SIZE_BYTES_MAX and surplus < len(stream.chunks) - 1:
            stream.size_bytes -= stream.chunks[surplus].size_bytes
            self._size_bytes -= stream.chunks[surplus].size_bytes
            surplus += 1
        del stream.chunks[:surplus]
        del stream.starts[:surplus]
        for other in self._streams.values():
            if self._size_bytes <= SIZE_BYTES_MAX:
                break
            if other is not stream:
                self._forget(other)

    def _forget(self, stream: _Stream) -> None:
        self._size_bytes -= stream.size_bytes
        stream.size_bytes = 0
        stream.chunks.clear()
        stream.starts.clear()
