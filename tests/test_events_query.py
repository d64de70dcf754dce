from __future__ import annotations

from urllib.parse import quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.errors import InvalidInput
from runstream.events_query import EventsQuery, encode_events_query, parse_events_query
from runstream.filter import make_filter
from runstream.record import Cursor
from runstream.start import Start

NAME = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.sampled_from(",\\ %&=+"),
    min_size=1,
    max_size=8,
)
NAMES = st.none() | st.lists(NAME, max_size=4)
SEQ = st.integers(0, 10**18 - 1)
START = st.one_of(
    st.just(Start()),
    st.builds(Start, from_seq=SEQ),
    st.builds(Start, last=SEQ),
    st.builds(Start, after=st.builds(Cursor, st.none() | st.just("g1"), SEQ)),
)
FILTER = st.builds(make_filter, kinds=NAMES, topics=NAMES, steps=NAMES, correlation_ids=NAMES)
QUERY = st.builds(
    EventsQuery,
    start=START,
    filter=FILTER,
    follow=st.booleans(),
    limit=st.none() | SEQ,
    wait_s=st.integers(0, 1000).map(lambda tenths: tenths / 10),
    stream=st.booleans(),
)


@given(QUERY)
def test_what_a_client_writes_the_server_reads(query: EventsQuery) -> None:
    assert parse_events_query(encode_events_query(query)) == query


def test_nothing_asked_for_is_everything_from_the_start() -> None:
    assert parse_events_query("") == EventsQuery()


@pytest.mark.parametrize(
    "text",
    ["kinds=a,b", "kinds=a&kinds=b", urlencode({"kinds": "a,b"}), "kinds=a&kinds=b,a"],
)
def test_names_are_repeated_or_have_commas_between_however_they_are_encoded(text: str) -> None:
    assert parse_events_query(text).filter == make_filter(kinds=["a", "b"])


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (r"a\,b", "a,b"),
        (r"a\\", "a\\"),
        (r"C:\new", r"C:\new"),
        (r"a\\\,b", r"a\,b"),
        ("a b", "a b"),
    ],
)
def test_a_backslash_makes_a_comma_part_of_a_name(text: str, name: str) -> None:
    assert parse_events_query(f"topics={quote(text)}").filter == make_filter(topics=name)


def test_the_last_event_id_wins() -> None:
    query = parse_events_query("last=3&kinds=a", "g1.7")
    assert query.start == Start(after=Cursor("g1", 7))
    assert query.filter == make_filter(kinds="a")


def test_an_empty_last_event_id_is_none() -> None:
    assert parse_events_query("last=3", "").start == Start(last=3)


def test_a_token_in_the_address_is_not_ours_to_read() -> None:
    assert parse_events_query("access_token=x&access_token=y") == EventsQuery()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("kind=a", "unknown parameter 'kind'"),
        ("kinds=a,,b", "must not be empty"),
        ("kinds=a%00", "control characters"),
        ("kinds=%ff", "not a query string"),
        ("kinds=" + ",".join(map(str, range(101))), "at most 100"),
        ("&".join(["kinds=a"] * 501), "not a query string"),
        ("from_seq=1&last=1", "one of"),
        ("from_seq=1&from_seq=1", "2 times"),
        ("from_seq=-1", "whole number"),
        ("from_seq=+1", "whole number"),
        ("from_seq=%D9%A1", "whole number"),
        ("last=1" + "0" * 18, "whole number"),
        ("after=", "not a cursor"),
        ("after=7", "not a cursor"),
        ("follow=no", "true or false"),
        ("stream", "true or false"),
        ("limit=", "whole number"),
        ("wait=1e3", "number of seconds"),
        ("wait=nan", "number of seconds"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(text: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        parse_events_query(text)


def test_a_last_event_id_that_is_no_cursor_is_refused() -> None:
    with pytest.raises(InvalidInput, match="not a cursor"):
        parse_events_query("", "seven")
