"""Consecutive records of a stream, encoded once and cut into chunks that all subscribers share.

A subscriber asks for what is behind its position. Two that ask the same thing (the same position, filter
and format) get the same bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
from starlette.types import Message

from ..filter import Filter
from ..record import Draft
from .stream_format import StreamFormat

# One write: large enough that the cost per write vanishes (about 250 records), small enough to hold one
# for each of a thousand subscribers that don't read. One large record may exceed it.
CHUNK_BYTES_MAX: Final = 64 * 1024
# Chunks that are kept between two additions: those whom the same records reach are at few positions.
CHUNKS_MAX: Final = 64
# An envelope without its payload, about.
_ENVELOPE_BYTES: Final = 200


class View:
    """Who gets the same records in the same form. Compared by identity: equal ones are made once."""

    __slots__ = ("__weakref__", "form", "is_open", "is_root", "run_id", "wanted")

    def __init__(self, form: StreamFormat, run_id: str, is_root: bool, wanted: Filter) -> None:
        self.form = form
        self.run_id = run_id
        self.is_root = is_root
        self.wanted = wanted
        self.is_open = is_root and wanted.is_open

    def passes(self, draft: Draft) -> bool:
        """Whether the record is among them."""
        return (self.is_root or draft.run_id == self.run_id) and self.wanted.passes(draft)

    def ends_with(self, draft: Draft) -> bool:
        """Whether nothing comes after it."""
        return draft.is_terminal and draft.run_id == self.run_id


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """What a view has behind seq `after`, up to and including seq `through`. `told` is the last record in
    `body` (0: it is empty), `ended` says that it is the view's last one, `message` is the body for ASGI.
    """

    body: bytes
    records: int
    after: int
    told: int
    through: int
    ended: bool
    message: Message


class Batch:
    """Some records, and their encoded forms as far as somebody asked for them."""

    __slots__ = ("_encoded", "drafts", "first_seq", "generation", "last_seq", "size_bytes")

    def __init__(self, generation: str, first_seq: int, drafts: Sequence[Draft], size: int) -> None:
        self.generation = generation
        self.first_seq = first_seq
        self.last_seq = first_seq + len(drafts) - 1
        self.drafts = drafts
        self.size_bytes = size
        self._encoded: dict[StreamFormat, list[bytes]] = {}

    def encoded(self, form: StreamFormat) -> list[bytes]:
        """Each record in that form."""
        found = self._encoded.get(form)
        if found is None:
            found = form.records(self.generation, self.first_seq, self.drafts)
            self._encoded[form] = found
        return found


class Batches:
    """Consecutive batches, and the chunks that were cut from them."""

    def __init__(self, generation: str, after: int) -> None:
        self.generation = generation
        self.last_seq = after
        self.size_bytes = 0
        self._batches: deque[Batch] = deque()
        self._chunks: dict[tuple[View, int], Chunk] = {}

    def add(self, drafts: Sequence[Draft]) -> None:
        """Append what comes next."""
        self._chunks.clear()
        for batch in split(self.generation, self.last_seq + 1, drafts):
            self._batches.append(batch)
            self.last_seq = batch.last_seq
            self.size_bytes += batch.size_bytes

    def shrink(self, size_bytes_max: int) -> None:
        """Forget the oldest; the newest batch always stays."""
        while self.size_bytes > size_bytes_max and len(self._batches) > 1:
            self.size_bytes -= self._batches.popleft().size_bytes

    def holds(self, after: int) -> bool:
        """Whether the record behind `after` is here, or would be if there were one."""
        first = self._batches[0].first_seq if self._batches else self.last_seq + 1
        return after + 1 >= first

    def chunk(self, view: View, after: int) -> Chunk | None:
        """What the view has behind `after`, as far as it fits into one write; None: nothing is there.

        Raises LookupError unless it `holds(after)`.
        """
        if after >= self.last_seq:
            return None
        if not self.holds(after):
            raise LookupError(f"the records behind {after} are not here any more")
        found = self._chunks.get((view, after))
        if found is None:
            if len(self._chunks) >= CHUNKS_MAX:
                self._chunks.clear()
            found = self._chunks[view, after] = _cut(view, self._behind(after), after)
        return found

    def _behind(self, after: int) -> Iterator[Batch]:
        # Nearly everyone is near the end.
        count = 0
        for batch in reversed(self._batches):
            if batch.last_seq <= after:
                break
            count += 1
        at = len(self._batches) - count
        return (self._batches[i] for i in range(at, len(self._batches)))


def split(generation: str, first_seq: int, drafts: Sequence[Draft]) -> list[Batch]:
    """Batches of about the size of a chunk."""
    batches: list[Batch] = []
    start, size = 0, 0
    for end, draft in enumerate(drafts, 1):
        size += len(draft.data) + _ENVELOPE_BYTES
        if size >= CHUNK_BYTES_MAX or end == len(drafts):
            batches.append(Batch(generation, first_seq + start, drafts[start:end], size))
            start, size = end, 0
    return batches


def choose(
    view: View, drafts: Sequence[Draft], first_seq: int, limit: int, start: int = 0
) -> tuple[Sequence[int], int, bool]:
    """Which of consecutive records a view gets (indices from `start`, at most `limit`), up to which seq
    that goes, and whether it is the view's end.
    """
    last_seq = first_seq + len(drafts) - 1
    if view.is_open:
        end = min(len(drafts), start + limit)
        # Nothing comes behind the record that ends a stream.
        return (
            range(start, end),
            first_seq + end - 1,
            end > start and view.ends_with(drafts[end - 1]),
        )
    chosen: list[int] = []
    for at in range(start, len(drafts)):
        draft = drafts[at]
        if view.passes(draft):
            chosen.append(at)
            if view.ends_with(draft):
                return chosen, first_seq + at, True
            if len(chosen) == limit:
                return chosen, first_seq + at, False
    return chosen, last_seq, False


def _cut(view: View, batches: Iterable[Batch], after: int) -> Chunk:
    parts: list[bytes] = []
    size = 0
    told, through, ended = 0, after, False
    for batch in batches:
        if size and size + batch.size_bytes > CHUNK_BYTES_MAX:
            break
        start = max(after + 1 - batch.first_seq, 0)
        count = len(batch.drafts)
        chosen, through, ended = choose(view, batch.drafts, batch.first_seq, count, start)
        if chosen:
            encoded = batch.encoded(view.form)
            new = (
                encoded[start:] if len(chosen) == count - start else [encoded[at] for at in chosen]
            )
            parts += new
            size += sum(map(len, new))
            told = batch.first_seq + chosen[-1]
        if ended:
            break
    body = b"".join(parts)
    message = {"type": "http.response.body", "body": body, "more_body": True}
    return Chunk(body, len(parts), after, told, through, ended, message)
