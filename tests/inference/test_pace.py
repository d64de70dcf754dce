from __future__ import annotations

import time

import pytest

from runstream.inference import pace
from runstream.inference.pace import RECENT_CHUNKS, Pace


class Clock:
    """A thread's two clocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.cpu_s = 1.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)
        monkeypatch.setattr(time, "thread_time", lambda: self.cpu_s)
        self.pace = Pace()
        self.pace.asks()

    def chunk(self, after_s: float, *, working_s: float = 0.0, late_s: float = 0.0) -> float:
        """A chunk comes, after the thread has waited and worked; its rest, which it takes, and is late."""
        self.now_s += after_s + working_s
        self.cpu_s += working_s
        rest_s = self.pace.comes()
        self.now_s += rest_s + late_s
        self.pace.asks(rest_s)
        return rest_s

    def chunks(self, count: int, after_s: float) -> float:
        """So many chunks, one after the other; the last one's rest."""
        return [self.chunk(after_s) for _ in range(count)][-1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_nobody_rests_before_the_pace_is_known(clock: Clock) -> None:
    assert [clock.chunk(0.01) for _ in range(RECENT_CHUNKS - 1)] == [0.0] * (RECENT_CHUNKS - 1)
    assert clock.chunk(0.01) > 0


def test_the_thread_of_a_slow_engine_rests_while_the_next_chunk_is_made(clock: Clock) -> None:
    rest_s = 0.0
    for _ in range(20):
        rest_s = clock.chunk(0.01 - rest_s)
    assert rest_s == pytest.approx(pace.LINGER_SHARE * 0.01 - pace.GETTING_UP_S)
    assert clock.pace.patience_s == 0.0


def test_a_chunk_that_took_long_delays_none_of_those_after_it(clock: Clock) -> None:
    rest_s = clock.chunks(RECENT_CHUNKS, 0.01)
    assert clock.chunk(5.0 - rest_s) <= 0.01


def test_chunks_that_come_several_at_a_time_do_not_wait_for_one_another(clock: Clock) -> None:
    for _ in range(10):
        clock.chunk(0.05)
        rests = [clock.chunk(0.0) for _ in range(4)]
        assert rests == [0.0] * 4
    assert clock.chunk(0.05) == 0.0


def test_the_thread_of_a_fast_engine_naps_for_many_chunks(clock: Clock) -> None:
    nap_s = clock.chunks(RECENT_CHUNKS, 0.0001)
    assert nap_s == pytest.approx(min(pace.NAP_S_MAX, pace.NAP_CHUNKS_MAX * 0.0001))
    assert clock.pace.patience_s == pytest.approx(pace.PATIENCE_NAPS * nap_s)


def test_what_comes_during_a_nap_is_taken_before_the_next_one(clock: Clock) -> None:
    nap_s = clock.chunks(RECENT_CHUNKS, 0.0001)
    # It looks as if the thread had waited for each, but another one held the interpreter's lock.
    rests = [clock.chunk(0.0001) for _ in range(round(nap_s / 0.0001))]
    assert rests[:-1] == [0.0] * (len(rests) - 1)
    assert rests[-1] > 0


def test_work_on_chunks_that_are_there_is_no_waiting(clock: Clock) -> None:
    clock.chunks(RECENT_CHUNKS, 0.0001)
    assert [clock.chunk(0.0, working_s=0.00008) for _ in range(100)] == [0.0] * 100


def test_a_fast_engine_that_becomes_slow_is_soon_awaited_again(clock: Clock) -> None:
    nap_s = clock.chunks(RECENT_CHUNKS, 0.0001)
    assert clock.chunks(round(nap_s / 0.0001), 0.02) == 0.0
    assert clock.pace.patience_s == 0.0
    assert clock.chunks(RECENT_CHUNKS - 1, 0.02) == pytest.approx(
        pace.LINGER_SHARE * 0.02 - pace.GETTING_UP_S
    )


def test_nobody_rests_where_the_interpreter_s_lock_is_taken(clock: Clock) -> None:
    clock.chunks(RECENT_CHUNKS, 0.01)
    assert clock.chunk(0.01, late_s=0.005) > 0
    assert clock.chunks(pace.RESTLESS_CHUNKS - 1, 0.005) == 0.0
    assert clock.chunks(2 * RECENT_CHUNKS, 0.01) > 0
