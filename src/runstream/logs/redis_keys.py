"""The keys of a Redis log, and the text in them. docs/redis.md shows the same table to people.

All keys of a stream carry its root's run id as their hash tag, so they lie on one node of a cluster; the
index of all runs has a tag of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, cast

import msgspec

from ..admission import no_such_run
from ..log import Lease, RunInfo, Status
from ..record import Draft, check_run_id
from .redis_scripts import CHUNK_RECORDS_MAX, CHUNK_SIZE_BYTES_MAX

# No run id has a slash, so no stream shares a key with the index.
_INDEX: Final = "{/}"
VERSION: Final = "1"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Draft]).decode


class Keys:
    """The names of one log's keys and channels."""

    def __init__(self, prefix: str, db: int) -> None:
        self._prefix = prefix
        # Channels are one for all databases of a server.
        self._channels = f"{prefix}:{db}"
        self.version = f"{prefix}:{_INDEX}:version"
        self.ends = f"{prefix}:{_INDEX}:ends"
        self.limits = f"{prefix}:{_INDEX}:limits"

    def retention(self, seconds: float) -> str:
        """Who looks for what has aged out, of those that keep runs for that time."""
        return f"{self._prefix}:{_INDEX}:retention:{seconds:g}"

    def run(self, root: str) -> str:
        return f"{self._prefix}:{{{root}}}"

    def stream(self, root: str) -> tuple[str, ...]:
        """H, L, O and P, as the scripts call them."""
        run = self.run(root)
        return run, f"{run}:log", f"{run}:open", f"{run}:root"

    def pointer(self, run_id: str) -> str:
        return f"{self.run(run_id)}:root"

    def once(self, root: str, token: str) -> str:
        return f"{self.run(root)}:once:{token}"

    def channel(self, run_id: str) -> str:
        return f"{self._channels}:{run_id}"

    def runs(self, status: str | None = None, workflow: str | None = None) -> str:
        """A list of runs: all, those that may not have ended (`active`), or those that ended so."""
        name = f"{self._prefix}:{_INDEX}:runs"
        if status is not None:
            name += f":{status}"
        return name if workflow is None else f"{name}/{workflow}"


class Place(msgspec.Struct, frozen=True):
    """Where a child was opened, as its pointer says."""

    root: str
    parent: str
    workflow: str

    def __str__(self) -> str:
        return f"{self.root}\n{self.parent}\n{self.workflow}"

    @staticmethod
    def parse(text: bytes) -> Place:
        return Place(*text.decode().split("\n"))


def known_run_id(run_id: str) -> str:
    """The run id, if a run can have it. Raises RunNotFound."""
    try:
        return check_run_id(run_id)
    except ValueError:
        raise no_such_run(run_id) from None


def member(run_id: str, root: str) -> str:
    """What stands for a run in the index."""
    return run_id if run_id == root else f"{run_id}/{root}"


def of_member(text: bytes) -> tuple[str, str]:
    """The run id and the root's of an entry of the index."""
    run_id, _, root = text.decode().partition("/")
    return run_id, root or run_id


# --- a run ---------------------------------------------------------------------------------------


def fields_of(run_id: str) -> tuple[str, ...]:
    """The fields of H that `run_info` takes, in its order."""
    return "g", "f", "l", f"r:{run_id}", f"s:{run_id}", f"e:{run_id}"


def run_info(run_id: str, root: str, fields: Sequence[bytes | None]) -> RunInfo:
    """What a log knows of a run, from its fields."""
    generation, first, last, what, status, lease = ((field or b"").decode() for field in fields)
    parent, workflow, created, _ = what.split("\n")
    word, _, ended = status.partition(" ")
    return RunInfo(
        run_id=run_id,
        root_run_id=root,
        parent_run_id=parent or None,
        workflow=workflow,
        status=cast(Status, word),
        generation=generation,
        first_seq=int(first),
        last_seq=int(last),
        created=int(created),
        ended=int(ended) if ended else None,
        lease=parse_lease(lease) if lease else None,
    )


def workflow_of(what: str) -> str:
    """The workflow in a run's field `r:`."""
    return what.split("\n")[1]


def lease_text(lease: Lease) -> str:
    return f"{lease.owner}\n{lease.epoch}\n{lease.counter}\n{lease_times(lease.lease_s, lease.grace_s)}"


def lease_times(lease_s: float, grace_s: float) -> str:
    return f"{float(lease_s)!r}\n{float(grace_s)!r}"


def parse_lease(text: str) -> Lease:
    owner, epoch, counter, lease_s, grace_s = text.split("\n")
    return Lease(owner, int(epoch), int(counter), float(lease_s), float(grace_s))


# --- records -------------------------------------------------------------------------------------


def chunks_of(drafts: Sequence[Draft]) -> list[int | bytes]:
    """The count and the JSON of each chunk, one after the other; without the outer brackets, so that
    a page is the chunks of several entries with commas between them.
    """
    chunks: list[int | bytes] = []
    for start in range(0, len(drafts), CHUNK_RECORDS_MAX):
        _cut(drafts[start : start + CHUNK_RECORDS_MAX], chunks)
    return chunks


def _cut(drafts: Sequence[Draft], chunks: list[int | bytes]) -> None:
    encoded = _encode(drafts)
    if len(encoded) > CHUNK_SIZE_BYTES_MAX and len(drafts) > 1:
        half = len(drafts) // 2
        _cut(drafts[:half], chunks)
        _cut(drafts[half:], chunks)
        return
    chunks += (len(drafts), encoded[1:-1])


def drafts_of(joined: bytes) -> list[Draft]:
    return _decode(b"[" + joined + b"]")


def draft_text(draft: Draft) -> bytes:
    return _encode(draft)


def around_run_id(draft: Draft) -> tuple[bytes, bytes]:
    """What stands before and behind the run id in a draft's JSON (a run id needs no escapes)."""
    before, found, behind = _encode(draft).partition(b'"' + draft.run_id.encode() + b'"')
    assert found  # noqa: S101 - it is the second part of every draft
    return before + b'"', b'"' + behind
