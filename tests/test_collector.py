"""The collector: events are taken in the expected order, and an attempt that failed has left no trace."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from runstream.collector import Collected, Collector
from runstream.events import Event


class Ping(Event):
    n: int


class Pong(Event):
    n: int


KINDS = st.sampled_from([Ping, Pong])
EXPECTED = [Ping, Pong, Ping]


def test_the_expected_events_come_in_their_order_oldest_first_of_each_kind() -> None:
    collector = Collector()
    ping, pong = [Ping(n=n) for n in range(2)], Pong(n=2)
    for event in ping:
        assert collector.collect("b", event, EXPECTED)[0] is None
    assert collector.collect("other", pong, EXPECTED)[0] is None
    taken = collector.collect("b", pong, EXPECTED)[0]
    assert taken is not None
    assert [id(event) for event in taken] == [id(ping[0]), id(pong), id(ping[1])]
    assert collector.collect("b", pong, EXPECTED)[0] is None


@given(st.lists(st.tuples(st.lists(KINDS, max_size=6), st.booleans()), max_size=8))
def test_an_attempt_that_failed_might_as_well_not_have_been(
    attempts: list[tuple[list[type[Ping | Pong]], bool]],
) -> None:
    """Attempts one after the other collect some events each; without those that fail it is the same."""
    with_failures, without = Collector(), Collector()
    number = 0
    for kinds, fails in attempts:
        collected: list[Collected] = []
        for kind in kinds:
            number += 1
            event = kind(n=number)
            taken, one = with_failures.collect("b", event, EXPECTED)
            collected.append(one)
            if not fails:
                assert taken == without.collect("b", event, EXPECTED)[0]
        if fails:
            with_failures.undo(collected)
