"""Server-sent events are read as the standard says, however the bytes are cut."""

from __future__ import annotations

import re
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.errors import NotALog
from runstream.record import Origin, Record, make_draft
from runstream.sse import HEARTBEAT, encode_frame
from runstream.sse_parser import FRAME_BYTES_MAX, Frame, SseParser

ORIGIN = Origin("g1", "nightly", None, "r1")


def parse(*parts: bytes) -> list[Frame]:
    parser = SseParser()
    return [frame for part in parts for frame in parser.feed(part)]


def by_the_standard(text: bytes) -> list[Frame]:
    """The standard's own words, over a whole response: slow, short, and sharing nothing with ours."""
    frames: list[Frame] = []
    last, kind, data = b"", b"", b""
    *lines, _ = re.split(rb"\r\n|\r|\n", text.removeprefix(b"\xef\xbb\xbf"))
    for line in lines:
        if not line:
            if data:
                frames.append((last, kind or b"message", data[:-1]))
            kind, data = b"", b""
            continue
        name, _, value = line.partition(b":")
        value = value[1:] if value[:1] == b" " else value
        if name == b"event":
            kind = value
        elif name == b"data":
            data += value + b"\n"
        elif name == b"id" and b"\0" not in value:
            last = value
    return frames


def frame_of(seq: int, text: str = "Hi", kind: str = "token") -> bytes:
    return encode_frame(Record(seq, make_draft("r1", kind, {"text": text}), ORIGIN))


def test_what_the_server_writes_is_read_back() -> None:
    frames = parse(b"".join(frame_of(seq) for seq in range(1, 4)))
    assert [(cursor, kind) for cursor, kind, _ in frames] == [
        (b"g1.1", b"token"),
        (b"g1.2", b"token"),
        (b"g1.3", b"token"),
    ]
    assert [msgspec.json.decode(data)["seq"] for _, _, data in frames] == [1, 2, 3]


@pytest.mark.parametrize(
    ("text", "frames"),
    [
        (b"data: a\n\n", [(b"", b"message", b"a")]),
        (b"data:a\r\rdata:b\r\n\r\n", [(b"", b"message", b"a"), (b"", b"message", b"b")]),
        (b"\xef\xbb\xbfdata: a\n\n", [(b"", b"message", b"a")]),
        (b"data: a\ndata:\ndata:  b\n\n", [(b"", b"message", b"a\n\n b")]),
        (b": comment\n\ndata: a\n: again\n\n", [(b"", b"message", b"a")]),
        (b"id: 5\n\ndata: a\n\n", [(b"5", b"message", b"a")]),
        (b"id: 5\ndata: a\n\nid\ndata: b\n\n", [(b"5", b"message", b"a"), (b"", b"message", b"b")]),
        (b"id: 5\nid: x\0y\ndata: a\n\n", [(b"5", b"message", b"a")]),
        (b"event: x\n\ndata: a\n\n", [(b"", b"message", b"a")]),
        (b"data\n\ndata: a", [(b"", b"message", b"")]),
        (b"nonsense\nevent: x\ndata: a\n\n", [(b"", b"x", b"a")]),
        (
            b"id: 1\nevent: x\ndata: a\n\nxid: 2\nevent: x\ndata: b\n\n",
            [(b"1", b"x", b"a"), (b"1", b"x", b"b")],
        ),
        (
            b"id: 1\nevent: x\ndata: a\n\nevent: x\ndata: b\n\nid: 2\nevent: x\ndata: c\n\n",
            [(b"1", b"x", b"a"), (b"1", b"x", b"b"), (b"2", b"x", b"c")],
        ),
        (b"id: 1\0\nevent: x\ndata: a\n\n", [(b"", b"x", b"a")]),
    ],
)
def test_every_form_that_the_standard_allows_is_read(text: bytes, frames: list[Frame]) -> None:
    assert parse(text) == frames == by_the_standard(text)


def test_a_line_end_of_two_bytes_may_be_cut_in_the_middle() -> None:
    assert parse(b"data: a\r", b"\ndata: b\r", b"\n\r\n") == [(b"", b"message", b"a\nb")]


def test_a_retry_is_a_number_of_milliseconds_or_nothing() -> None:
    parser = SseParser()
    assert parser.feed(b"retry: 2500\n\nretry: soon\n\nretry: -1\n\n") == []
    assert parser.retry_ms == 2500


PIECES = st.sampled_from(
    [
        b"\r", b"\n", b"\r\n", b"\n\n", b"data: x\n", b"data: {}\n\n", b"id: g.1\n", b"id: \0\n",
        b"event: a\n", b": beat\n\n", b"\xef\xbb\xbf", b"da", b"ta", b":", b" ", b"retry: 10\n",
        "ünï".encode(), b"id: g.2\nevent: b\ndata: 1\n\n", frame_of(7), frame_of(8, "\u2028x"), HEARTBEAT,
        b"data: y", b"event: b\ndata: 2\n\n", b"id: g\0\nevent: b\ndata: 3\n\n",
    ]
)  # fmt: skip


@given(st.lists(PIECES, max_size=30).map(b"".join), st.data())
def test_any_cutting_gives_the_same_events_as_the_standard(
    text: bytes, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    edges = [0, *cuts, len(text)]
    parts = [text[start:end] for start, end in pairwise(edges)]
    assert parse(*parts) == by_the_standard(text)
    assert parse(*(text[at : at + 1] for at in range(len(text)))) == by_the_standard(text)


@given(st.integers(1, 5), st.data())
def test_a_frame_that_was_cut_is_nothing(count: int, data: st.DataObject) -> None:
    frames = [frame_of(seq, "x" * seq) for seq in range(1, count + 1)]
    text = b"".join(frames)
    end = data.draw(st.integers(0, len(text)))
    whole, size = 0, 0
    while whole < count and size + len(frames[whole]) <= end:
        size += len(frames[whole])
        whole += 1
    assert [cursor for cursor, _, _ in parse(text[:end])] == [
        b"g1.%d" % seq for seq in range(1, whole + 1)
    ]


def test_a_large_event_arrives_whole_in_small_parts() -> None:
    text = (
        frame_of(1, "x" * 1_000_000) + b"data: " + b"y" * 200_000 + b"\ndata: z\n\n" + frame_of(2)
    )
    parts = [text[at : at + 4000] for at in range(0, len(text), 4000)]
    assert parse(*parts) == by_the_standard(text)
    assert len(parse(*parts)) == 3


@pytest.mark.parametrize(
    "line", [b"x" * 65536, b"data: " + b"x" * 65530 + b"\n", b"data: \r" * 9400]
)
def test_an_event_without_an_end_is_refused_before_it_fills_the_memory(line: bytes) -> None:
    parser = SseParser()
    with pytest.raises(NotALog, match="bytes"):
        for _ in range(FRAME_BYTES_MAX // 60_000 + 1):
            parser.feed(line)
