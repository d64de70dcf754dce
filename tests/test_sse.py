from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.record import Cursor, Draft, Origin, Record, make_draft
from runstream.sse import HEARTBEAT, encode_control, encode_frame, encode_frames
from runstream.wire import encode_record

ORIGIN = Origin("g1", "nightly", None, "r1")

NAME = st.none() | st.text(st.characters(codec="utf-8"), max_size=6)
DRAFT = st.builds(
    Draft,
    # Also of clocks that are far off, and two in one second.
    time=st.integers(-(10**18), 10**18) | st.integers(1_776_000_000_000_000, 1_776_000_003_000_000),
    run_id=st.just("r1"),
    kind=st.text(st.characters(codec="utf-8"), max_size=6),
    data=st.sampled_from([b"{}", b'{"a": 1}', b'{\r\n"a":\n1}\r']).map(msgspec.Raw),
    topic=NAME,
    step=NAME,
    step_run_id=NAME,
    attempt=st.none() | st.integers(0, 9),
    correlation_id=NAME,
    index=st.none() | st.integers(-(2**53), 2**53),
)


def fields(frame: bytes) -> list[tuple[str, str]]:
    """What the standard's algorithm finds in one frame (lines end with CR, LF or both)."""
    text = frame.decode()
    assert text.endswith("\n\n")
    lines = text[:-2].replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [(name, value) for name, _, value in (line.partition(": ") for line in lines)]


def test_a_record_is_a_frame_of_its_cursor_its_kind_and_its_envelope() -> None:
    record = Record(7, make_draft("r1", "token", {"text": "a"}), ORIGIN)
    assert encode_frame(record) == b"id: g1.7\nevent: token\ndata: %b\n\n" % encode_record(record)


@given(st.lists(DRAFT, max_size=6), st.integers(1, 10**9))
def test_many_frames_are_the_same_as_each_alone(drafts: list[Draft], first_seq: int) -> None:
    alone = [encode_frame(Record(seq, d, ORIGIN)) for seq, d in enumerate(drafts, first_seq)]
    assert encode_frames("g1", first_seq, drafts) == alone


@given(DRAFT)
def test_nothing_in_a_record_can_break_its_frame(draft: Draft) -> None:
    (frame,) = encode_frames("g1", 7, [draft])
    found = fields(frame)
    assert [name for name, _ in found] == ["id", "event", "data"]
    assert found[0][1] == "g1.7"
    envelope = json.loads(found[2][1])
    assert envelope["kind"] == draft.kind
    assert envelope["data"] == json.loads(bytes(draft.data))


def test_a_payload_that_was_never_json_still_is_one_line() -> None:
    broken = msgspec.structs.replace(make_draft("r1", "a", {}), data=msgspec.Raw(b'"x\n\ndata: y"'))
    assert encode_frames("g1", 1, [broken])[0].count(b"\n") == 4


@pytest.mark.parametrize(("retry_ms", "start"), [(None, b"id: g1.3\n"), (1500, b"retry: 1500\n")])
def test_a_control_frame_says_where_reading_goes_on(retry_ms: int | None, start: bytes) -> None:
    frame = encode_control("stream.end", Cursor("g1", 3), b'{"reason":"ended"}', retry_ms=retry_ms)
    assert frame.startswith(start)
    assert fields(frame)[-3:] == [
        ("id", "g1.3"),
        ("event", "stream.end"),
        ("data", '{"reason":"ended"}'),
    ]


def test_a_heartbeat_is_a_comment() -> None:
    assert HEARTBEAT.startswith(b":")
    assert HEARTBEAT.endswith(b"\n\n")
