"""Records, their envelope, and the cursor that points at one."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.errors import InvalidInput, InvalidPayload
from runstream.record import (
    INDEX_MAX,
    RUN_ID_LENGTH_MAX,
    TERMINAL_KINDS,
    Cursor,
    Draft,
    Origin,
    Record,
    check_index,
    check_run_id,
    make_draft,
)

ORIGIN = Origin("g1", "nightly", "parent-1", "root-1")


class Place(enum.IntEnum):
    THIRD = 3


def record(kind: str = "token", raw: bytes = b'{"text":"hi"}', *, seq: int = 4) -> Record:
    draft = Draft(1_700_000_000_123_456, "run-1", kind, msgspec.Raw(raw), step="train")
    return Record(seq, draft, ORIGIN)


def test_a_record_shows_its_envelope() -> None:
    one = record()
    assert (one.seq, one.kind, one.run_id, one.step, one.topic) == (
        4,
        "token",
        "run-1",
        "train",
        None,
    )
    assert (one.workflow, one.parent_run_id, one.root_run_id) == ("nightly", "parent-1", "root-1")
    assert one.time == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
    assert one.raw == b'{"text":"hi"}'


def test_the_payload_is_decoded_once() -> None:
    one = record()
    assert one.data == {"text": "hi"}
    assert one.data is one.data


def test_a_payload_of_null_is_decoded_as_none() -> None:
    assert record(raw=b"null").data is None


def test_the_cursor_of_a_record_is_its_generation_and_number() -> None:
    assert Cursor.parse(record().cursor) == Cursor("g1", 4)


def test_the_cursor_of_a_gap_is_where_reading_goes_on() -> None:
    gap = Record(0, make_draft("run-1", "stream.gap", {}), ORIGIN, resume_seq=9)
    assert gap.is_gap
    assert Cursor.parse(gap.cursor) == Cursor("g1", 9)


@given(
    st.from_regex(r"[1-9a-f][0-9a-f]{0,31}", fullmatch=True) | st.none(), st.integers(0, 10**18 - 1)
)
def test_a_cursor_survives_being_text(generation: str | None, seq: int) -> None:
    cursor = Cursor(generation, seq)
    assert Cursor.parse(str(cursor)) == cursor


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7",
        "g1",
        "g1.",
        ".7",
        "g1.-1",
        "g1.7 ",
        "g1.7\n",
        "g1.\u0667",
        "g 1.7",
        "g1.1.1",
        f"g1.{'9' * 19}",
        7,
        None,
    ],
)
def test_what_is_no_cursor_is_refused(text: object) -> None:
    with pytest.raises(InvalidInput, match="cursor"):
        Cursor.parse(text)


@pytest.mark.parametrize("kind", sorted(TERMINAL_KINDS))
def test_the_end_of_a_run_is_terminal(kind: str) -> None:
    assert record(kind).is_terminal
    assert record(kind).draft.is_terminal
    assert not record("run.waiting").is_terminal


@pytest.mark.parametrize("run_id", ["a", "0", "run-1", "A.b_c:d~e-f", "x" * RUN_ID_LENGTH_MAX])
def test_a_run_id_is_kept_as_it_is(run_id: str) -> None:
    assert check_run_id(run_id) == run_id


@pytest.mark.parametrize(
    "run_id",
    [
        "",
        "-a",
        ".a",
        "a b",
        "a/b",
        "a\n",
        "a\0",
        "é",
        "a" * (RUN_ID_LENGTH_MAX + 1),
        "..",
        None,
        7,
        b"a",
    ],
)
def test_a_run_id_that_a_url_could_not_carry_is_refused(run_id: object) -> None:
    with pytest.raises(InvalidInput, match="run id"):
        check_run_id(run_id)


@pytest.mark.parametrize("index", [0, -1, INDEX_MAX, -INDEX_MAX])
def test_an_index_is_a_whole_number(index: int) -> None:
    assert check_index(index) == index
    assert type(check_index(Place.THIRD)) is int


@pytest.mark.parametrize("index", [INDEX_MAX + 1, -INDEX_MAX - 1, 1.0, True, "1", float("nan")])
def test_an_index_that_not_every_reader_could_hold_is_refused(index: object) -> None:
    with pytest.raises(InvalidInput, match="index"):
        check_index(index)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", ""),
        ("kind", "a\nb"),
        ("topic", "a\rb"),
        ("step", "a\0b"),
        ("correlation_id", "\ud800"),
        ("index", 2**53),
    ],
)
def test_a_draft_with_a_name_that_cannot_be_is_refused(field: str, value: Any) -> None:
    kind = value if field == "kind" else "token"
    rest = {} if field == "kind" else {field: value}
    with pytest.raises(InvalidInput, match=field):
        make_draft("run-1", kind, {}, **rest)


def test_a_draft_whose_payload_cannot_be_stored_is_refused() -> None:
    with pytest.raises(InvalidPayload):
        make_draft("run-1", "token", {"a": float("nan")})


def test_a_draft_survives_being_stored() -> None:
    draft = make_draft(
        "run-1", "token", b'{"a": 1}', topic="t", step="s", correlation_id="c", index=3
    )
    stored = msgspec.json.encode(draft)
    again = msgspec.json.decode(stored, type=Draft)
    assert again == draft
    assert bytes(again.data) == b'{"a": 1}'


def test_a_record_is_shown_on_one_short_line() -> None:
    shown = repr(record(raw=b'{"text":"' + b"x" * 1000 + b'"}'))
    assert shown.startswith("<Record seq=4 token run='run-1' step='train' {")
    assert len(shown) < 200
    assert repr(record(seq=0)).startswith("<Record no seq token")
