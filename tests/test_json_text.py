"""Looking at JSON as text says what decoding it would say."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runstream.json_text import SMALL_BYTES_MAX, check_json, is_deeper

# What looks like something else to whoever overlooks a quotation mark.
TRICKS = ["[", "{", "]", '"', "\\", '\\"', '\\\\"[', "e", "true", "1e999", "-1E999", ":[", "é"]
PIECES = [
    *(
        b"1",
        b"0",
        b"e",
        b"E",
        b"308",
        b"309",
        b"+",
        b"-",
        b".",
        b"[",
        b"]",
        b"{",
        b"}",
        b'"',
        b"\\",
    ),
    *(b",", b":", b"true", b"false", b"null", b"NaN", b" ", b"\n", b"\xff", b"\xc3\xa9", b'"a":'),
    *(b"1e400", b"0" * 250, b"1" * 320),
]
texts = st.text() | st.sampled_from(TRICKS)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=30,
)
numbers = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.sampled_from(["0", "1", "12", "9" * 100, "9" * 310, "9" * 4300, "9" * 4301]),
    st.sampled_from(["", ".0", ".5", "." + "0" * 400 + "1"]),
    st.sampled_from(["", "e5", "E+308", "e309", "e-400", "e+0000000309", "e0001", "e99999999999"]),
)


def can_be_decoded(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw)
    except (ValueError, RecursionError):
        return False
    return True


def passes(raw: bytes) -> bool:
    try:
        check_json(raw)
    except (ValueError, RecursionError):
        return False
    return True


def padded(raw: bytes) -> bytes:
    """The same, but large enough to be looked at as text."""
    return raw + b" " * SMALL_BYTES_MAX


def depth(value: Any) -> int:
    match value:
        case {**members}:
            return 1 + max(map(depth, members.values()), default=0)
        case [*items]:
            return 1 + max(map(depth, items), default=0)
        case _:
            return 0


@given(values, st.booleans())
def test_what_can_be_decoded_passes(value: Any, ascii_only: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert passes(padded(raw)) == passes(raw) == can_be_decoded(raw)


@settings(max_examples=500)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join))
@example(b'{"a": "\xed\xa0\x80"}')
@example(b"[" * 3000 + b"]" * 3000)
def test_what_cannot_be_decoded_does_not_pass(raw: bytes) -> None:
    assert passes(padded(raw)) == passes(raw) == can_be_decoded(raw)


@given(
    st.lists(numbers, max_size=4),
    st.sampled_from(["[%s]", '{"1e999":[[%s]]}', '[%s,"1e999"]', "[true,\n%s,false]", "[\r%s]"]),
    st.sampled_from([",", " ,\t"]),
)
def test_a_number_that_no_float_holds_does_not_pass(
    found: list[str], within: str, between: str
) -> None:
    raw = (within % between.join(found)).encode()
    assert passes(padded(raw)) == passes(raw) == can_be_decoded(raw)


def test_a_huge_number_is_found_behind_any_number_of_ids_that_look_like_one() -> None:
    ids = b'"1e100a0b",' * 2000
    assert passes(b"[" + ids + b"1]")
    assert not passes(b"[" + ids + b"1e999]")


@given(values, st.integers(0, 8), st.booleans())
def test_the_depth_is_that_of_the_value(value: Any, levels: int, ascii_only: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert is_deeper(raw, levels) == (depth(value) > levels)


@pytest.mark.parametrize("levels", [1, 100, 1000])
def test_the_depth_is_told_exactly(levels: int) -> None:
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        raw = b"[1," + opening * (levels - 1) + b"2" + closing * (levels - 1) + b"]"
        assert not is_deeper(raw, levels)
        assert is_deeper(b"[" + raw + b"]", levels)
