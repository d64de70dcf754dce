"""Retries: the arithmetic of pauses, and which errors are worth another attempt."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream import InvalidInput, Retry


@given(
    attempt=st.integers(1, 5000),
    noise=st.floats(0, 1),
    delay=st.floats(0, 1e6),
    backoff=st.floats(1, 100),
    jitter=st.booleans(),
)
def test_a_pause_is_never_longer_than_its_limit_nor_negative(
    attempt: int, noise: float, delay: float, backoff: float, jitter: bool
) -> None:
    retry = Retry(attempts=10_000, delay=delay, backoff=backoff, max_delay=60, jitter=jitter)
    pause = retry.pause(attempt, noise)
    assert pause is not None
    assert 0 <= pause <= 60


def test_jitter_spreads_over_the_upper_half_of_the_pause() -> None:
    retry = Retry(attempts=2, delay=4.0)
    assert (retry.pause(1, 0.0), retry.pause(1, 1.0)) == (2.0, 4.0)


def test_errors_are_covered_with_their_subclasses() -> None:
    assert Retry().covers(KeyError)
    assert not Retry().covers(KeyboardInterrupt)
    assert Retry(on=(OSError, KeyError)).covers(ConnectionError)
    assert not Retry(on=OSError).covers(KeyError)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"delay": -1},
        {"delay": math.nan},
        {"max_delay": math.inf},
        {"backoff": 0.5},
        {"on": "OSError"},
        {"on": (OSError, 3)},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        Retry(**options)
