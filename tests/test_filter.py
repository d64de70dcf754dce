"""Filters: OR within one, AND across; what must not be missed passes all of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.errors import InvalidInput
from runstream.filter import FILTER_VALUES_MAX, Filter, make_filter
from runstream.record import DROPPED, GAP, TERMINAL_KINDS, Draft, make_draft

NAMES = st.sampled_from(["a", "b", "c"])
SOME_NAMES = st.none() | st.frozensets(NAMES, max_size=3)
DRAFTS = st.builds(
    make_draft,
    st.just("run-1"),
    NAMES,
    st.just({}),
    topic=st.none() | NAMES,
    step=st.none() | NAMES,
    correlation_id=st.none() | NAMES,
)
FILTERS = st.builds(
    make_filter, kinds=SOME_NAMES, topics=SOME_NAMES, steps=SOME_NAMES, correlation_ids=SOME_NAMES
)


@given(FILTERS, DRAFTS)
def test_a_filter_is_the_and_of_its_single_parts(wanted: Filter, draft: Draft) -> None:
    parts = [
        make_filter(kinds=wanted.kinds),
        make_filter(topics=wanted.topics),
        make_filter(steps=wanted.steps),
        make_filter(correlation_ids=wanted.correlation_ids),
    ]

    assert wanted.matches(draft) == all(part.matches(draft) for part in parts)


@given(st.frozensets(NAMES, min_size=1), DRAFTS)
def test_a_part_is_the_or_of_its_values(kinds: frozenset[str], draft: Draft) -> None:
    single = [make_filter(kinds=kind) for kind in kinds]

    assert make_filter(kinds=kinds).matches(draft) == any(one.matches(draft) for one in single)


@given(FILTERS, st.sampled_from(sorted({GAP, DROPPED, *TERMINAL_KINDS})))
def test_gaps_drops_and_ends_pass_every_filter(wanted: Filter, kind: str) -> None:
    assert wanted.passes(make_draft("run-1", kind, {}))


@given(DRAFTS)
def test_no_filter_lets_everything_pass(draft: Draft) -> None:
    assert make_filter().is_open
    assert make_filter().passes(draft)


def test_a_string_is_one_value() -> None:
    assert make_filter(kinds="token").kinds == frozenset({"token"})


@pytest.mark.parametrize("what", ["kinds", "topics", "steps", "correlation_ids"])
def test_an_empty_filter_matches_nothing_and_is_not_open(what: str) -> None:
    empty: dict[str, list[str]] = {what: []}
    wanted = make_filter(**empty)

    assert not wanted.is_open
    assert not wanted.passes(make_draft("run-1", "token", {}))


@pytest.mark.parametrize("bad", ["", "line\nbreak", "x" * 1000, 5])
def test_a_value_that_no_record_can_have_is_refused(bad: str) -> None:
    with pytest.raises(InvalidInput):
        make_filter(topics=[bad])


def test_too_many_values_are_refused_with_the_limit() -> None:
    with pytest.raises(InvalidInput, match=str(FILTER_VALUES_MAX)):
        make_filter(kinds=[f"kind-{number}" for number in range(FILTER_VALUES_MAX + 1)])
