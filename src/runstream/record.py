"""Records: one stored event with its envelope, and the cursor that points at it.

A `Draft` is a record before it has its number; it is what a producer encodes once and what a log stores
(as one JSON array, `data` verbatim). A `Record` is a draft with its place in a stream.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from .errors import InvalidInput
from .events import Event, check_name, event_class
from .payload import decode_payload, encode_payload

# The kinds with which a run ends; nothing of that run follows.
TERMINAL_KINDS: Final = frozenset(
    {"run.completed", "run.failed", "run.cancelled", "run.timed_out", "run.lost"}
)
# Where a subscriber cannot get some records; never stored, takes no number.
GAP: Final = "stream.gap"
# What a producer had to drop; stored, at the place of the loss.
DROPPED: Final = "stream.dropped"

# Long enough for a UUID, an ULID or a path-like name; short enough for a URL and an index.
RUN_ID_LENGTH_MAX: Final = 128
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:~-]*")
_CURSOR = re.compile(r"([A-Za-z0-9]{1,32})\.([0-9]{1,18})")
# The generation of a cursor that goes for whichever there is.
_ANY_GENERATION = "0"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
# Of the payload, in a record's repr: about a line.
_SHOWN_LENGTH_MAX: Final = 100
# Indexes travel through JavaScript readers, whose integers are exact up to here.
INDEX_MAX: Final = 2**53 - 1


class Draft(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A record without its number. `time` is the producer's clock at the call, µs since 1970 (UTC).

    Not tracked by the garbage collector: it holds only text, numbers and encoded bytes.
    """

    time: int
    run_id: str
    kind: str
    data: msgspec.Raw
    topic: str | None = None
    step: str | None = None
    step_run_id: str | None = None
    attempt: int | None = None
    correlation_id: str | None = None
    index: int | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether this ends the run of its `run_id`."""
        return self.kind in TERMINAL_KINDS


class Cursor(msgspec.Struct, frozen=True):
    """A position: just after record `seq` of one `generation` of a stream (None: whichever it is)."""

    generation: str | None
    seq: int

    def __str__(self) -> str:
        return f"{self.generation or _ANY_GENERATION}.{self.seq}"

    @staticmethod
    def parse(text: object) -> Cursor:
        """Read what `str(cursor)` or `record.cursor` gave.

        Raises:
            InvalidInput: the text is not a cursor of ours.
        """
        match = _CURSOR.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise InvalidInput(f"not a cursor: {text!r}; pass on record.cursor unchanged")
        return Cursor(None if match[1] == _ANY_GENERATION else match[1], int(match[2]))


class Origin(msgspec.Struct, frozen=True):
    """What all records of one run have in common."""

    generation: str
    workflow: str
    parent_run_id: str | None
    root_run_id: str


class Record(msgspec.Struct, frozen=True, gc=False):
    """What a subscriber gets. `data` is decoded when it is first asked for.

    Not tracked by the garbage collector: its parts are plain data, and readers hold many of them.
    """

    seq: int
    draft: Draft
    origin: Origin
    # A gap has no number of its own; its cursor is where reading goes on.
    resume_seq: int | None = None
    _data: Any = msgspec.UNSET

    @property
    def kind(self) -> str:
        return self.draft.kind

    @property
    def run_id(self) -> str:
        return self.draft.run_id

    @property
    def topic(self) -> str | None:
        return self.draft.topic

    @property
    def step(self) -> str | None:
        return self.draft.step

    @property
    def step_run_id(self) -> str | None:
        return self.draft.step_run_id

    @property
    def attempt(self) -> int | None:
        return self.draft.attempt

    @property
    def correlation_id(self) -> str | None:
        return self.draft.correlation_id

    @property
    def index(self) -> int | None:
        return self.draft.index

    @property
    def time(self) -> datetime:
        """The producer's clock at the call, in UTC. Informative: `seq` orders."""
        return _EPOCH + timedelta(microseconds=self.draft.time)

    @property
    def workflow(self) -> str:
        return self.origin.workflow

    @property
    def parent_run_id(self) -> str | None:
        return self.origin.parent_run_id

    @property
    def root_run_id(self) -> str:
        return self.origin.root_run_id

    @property
    def cursor(self) -> str:
        """Opaque text for `after=`: reading goes on with the record behind this one."""
        seq = self.seq if self.resume_seq is None else self.resume_seq
        return f"{self.origin.generation}.{seq}"

    @property
    def raw(self) -> bytes:
        """The payload's JSON as the producer encoded it."""
        return bytes(self.draft.data)

    @property
    def data(self) -> Any:
        """The payload, decoded once for this record."""
        if self._data is msgspec.UNSET:
            msgspec.structs.force_setattr(self, "_data", decode_payload(self.draft.data))
        return self._data

    @property
    def is_terminal(self) -> bool:
        """Whether this record ends its run."""
        return self.draft.kind in TERMINAL_KINDS

    @property
    def is_gap(self) -> bool:
        """Whether this stands for records that cannot be read any more."""
        return self.draft.kind == GAP

    def as_event(self, *classes: type[Event]) -> Event:
        """The typed event: of the one among `classes` with this kind, else of the newest `Event`
        class of this kind in the process, else a plain `Event`.

        Raises:
            pydantic.ValidationError: the data does not fit that class.
        """
        event_type = event_class(self.draft.kind, classes)
        raw = self.raw
        if raw.lstrip().startswith(b"{"):
            event = event_type.model_validate_json(raw)
        else:  # ready-made JSON that is no object
            event = event_type.model_validate({"data": self.data})
        object.__setattr__(event, "__event_record__", self)
        return event

    def __repr__(self) -> str:
        where = f"seq={self.seq}" if self.seq else "no seq"
        step = f" step={self.draft.step!r}" if self.draft.step else ""
        text = self.raw.decode(errors="replace")
        shown = text if len(text) <= _SHOWN_LENGTH_MAX else text[: _SHOWN_LENGTH_MAX - 1] + "…"
        return f"<Record {where} {self.draft.kind} run={self.draft.run_id!r}{step} {shown}>"


def now_us() -> int:
    """The wall clock in µs since 1970, UTC."""
    return time.time_ns() // 1000


def check_run_id(run_id: object) -> str:
    """Return `run_id` if a run may have it.

    Raises:
        InvalidInput: not 1 to 128 letters, digits and ``. _ : ~ -`` that begin with a letter or digit.
    """
    if not isinstance(run_id, str) or not _RUN_ID.fullmatch(run_id):
        raise InvalidInput(
            f"not a run id: {run_id!r}; use letters, digits and . _ : ~ - and begin with one of the first two"
        )
    if len(run_id) > RUN_ID_LENGTH_MAX:
        raise InvalidInput(
            f"a run id has at most {RUN_ID_LENGTH_MAX} characters, not {len(run_id)}"
        )
    return run_id


def check_index(index: object) -> int:
    """Return `index` if a record may carry it.

    Raises:
        InvalidInput: not a whole number, or not exact in every reader.
    """
    if not isinstance(index, int) or isinstance(index, bool):
        raise InvalidInput(f"an index is a whole number, not {index!r}")
    if not -INDEX_MAX <= index <= INDEX_MAX:
        raise InvalidInput(f"an index lies between -(2^53-1) and 2^53-1, not {index}")
    return int(index)


def make_draft(
    run_id: str,
    kind: str,
    payload: object,
    *,
    topic: str | None = None,
    step: str | None = None,
    correlation_id: str | None = None,
    index: int | None = None,
) -> Draft:
    """A checked draft, for callers outside the hot path.

    Raises:
        InvalidInput: a name or the payload is not acceptable.
    """
    for name, what in ((topic, "topic"), (step, "step"), (correlation_id, "correlation_id")):
        if name is not None:
            check_name(name, what)
    return Draft(
        time=now_us(),
        run_id=check_run_id(run_id),
        kind=check_name(kind, "kind"),
        data=msgspec.Raw(encode_payload(payload)),
        topic=topic,
        step=step,
        correlation_id=correlation_id,
        index=None if index is None else check_index(index),
    )
