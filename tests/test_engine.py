"""The engine: ticks in, commands out; no clock, no tasks, nothing real."""

from __future__ import annotations

import pytest

from engine_runs import BOOM, shown, state_of
from runstream.engine import reduce
from runstream.retry import Retry
from runstream.run_state import Plan, RunState
from runstream.ticks import (
    Begun,
    BodyFailed,
    BodyFinished,
    Called,
    CancelAsked,
    ChildBegun,
    ChildEnded,
    Due,
    End,
    Failed,
    Finished,
    Halted,
    Sent,
    StepPlan,
    Timer,
    Work,
    Write,
)

RETRY = Retry(attempts=3, delay=2.0, jitter=False)


def only_work(state: RunState) -> Work:
    (work,) = state.works.values()
    return work


def test_an_event_starts_the_steps_that_accept_it_and_their_events_the_next() -> None:
    state = state_of(StepPlan("a"), StepPlan("ab"))
    assert shown(reduce(state, Begun(0.0, "ab"))) == [
        "step.started a#1",
        "Start a#1",
        "step.started ab#1",
        "Start ab#1",
    ]
    assert shown(reduce(state, Finished(1.0, 1, 1, {}, events=("a",)))) == [
        "step.completed a#1",
        "step.started a#1",
        "Start a#1",
    ]
    commands = reduce(state, Finished(2.0, 3, 1, {}, stop=("result",)))
    assert shown(commands) == ["step.completed a#1", "Stop ab#1", "SetTimer grace 7"]
    commands = reduce(state, Halted(2.1, 2, 1))
    assert shown(commands) == ["step.cancelled ab#1", "ClearTimer grace", "run.completed"]
    end = commands[-1]
    assert isinstance(end, End)
    assert end.result == ("result",)


def test_no_more_works_of_a_step_run_than_it_has_workers_and_the_others_wait_their_turn() -> None:
    state = state_of(StepPlan("a", num_workers=2), waits_outside=True)
    reduce(state, Begun(0.0, "a1"))
    for event in ("a2", "a3", "a4"):
        reduce(state, Sent(0.0, event))
    assert [work.event for work in state.works.values()] == ["a1", "a2"]
    reduce(state, Finished(1.0, 2, 1, {}))
    assert [work.event for work in state.works.values()] == ["a1", "a3"]
    reduce(state, Failed(1.0, 1, 1, BOOM))
    assert state.phase == "ending"
    assert "a4" not in [work.event for work in state.works.values()]


def test_the_step_that_ends_the_run_does_not_begin_what_waited_behind_it() -> None:
    state = state_of(StepPlan("a", num_workers=1))
    reduce(state, Begun(0.0, "a1"))
    reduce(state, Sent(0.0, "a2"))
    commands = reduce(state, Finished(1.0, 1, 1, {}, stop=("result",)))
    assert shown(commands) == ["step.completed a#1", "ClearTimer grace", "run.completed"]


def test_a_failed_attempt_is_marked_and_made_again_after_the_pause() -> None:
    state = state_of(StepPlan("a", retry=RETRY))
    reduce(state, Begun(0.0, "a"))
    commands = reduce(state, Failed(1.0, 1, 1, BOOM, retryable=True))
    assert shown(commands) == ["step.retrying a#1", "SetTimer retry 3"]
    assert commands[0] == Write(
        "step.retrying", only_work(state), 1, {"attempt": 1, "error": BOOM, "delay": 2.0}
    )
    assert shown(reduce(state, Due(3.0, Timer("retry", 1, 1)))) == ["step.started a#2", "Start a#2"]
    assert shown(reduce(state, Failed(4.0, 1, 2, BOOM, retryable=True))) == [
        "step.retrying a#2",
        "SetTimer retry 8",
    ]
    reduce(state, Due(8.0, Timer("retry", 1, 2)))
    commands = reduce(state, Failed(9.0, 1, 3, BOOM, retryable=True))
    assert shown(commands) == ["step.failed a#3", "ClearTimer grace", "run.failed"]
    end = commands[-1]
    assert isinstance(end, End)
    assert end.data == {
        "step_name": "a",
        "exception": BOOM,
        "attempts": 3,
        "elapsed_seconds": 9.0,
    }


def test_an_error_that_is_not_retried_fails_at_once() -> None:
    state = state_of(StepPlan("a", retry=RETRY))
    reduce(state, Begun(0.0, "a"))
    assert shown(reduce(state, Failed(1.0, 1, 1, BOOM))) == [
        "step.failed a#1",
        "ClearTimer grace",
        "run.failed",
    ]


def test_an_attempt_that_exceeds_its_time_is_stopped_and_retried_if_the_error_is_covered() -> None:
    state = state_of(StepPlan("a", retry=RETRY, timeout=5.0))
    assert shown(reduce(state, Begun(0.0, "a")))[-1] == "SetTimer attempt 5"
    assert shown(reduce(state, Due(5.0, Timer("attempt", 1, 1)))) == [
        "Stop a#1",
        "step.retrying a#1",
        "SetTimer retry 7",
    ]
    # What the stopped attempt still says is of no interest.
    assert reduce(state, Finished(6.0, 1, 1, {}, stop=(1,))) == []
    assert shown(reduce(state, Due(7.0, Timer("retry", 1, 1)))) == [
        "step.started a#2",
        "Start a#2",
        "SetTimer attempt 12",
    ]
    assert reduce(state, Due(7.5, Timer("attempt", 1, 1))) == []
    only_ours = state_of(StepPlan("a", retry=Retry(on=OSError), timeout=5.0))
    reduce(only_ours, Begun(0.0, "a"))
    # (A TimeoutError is an OSError, so this one is covered, too.)
    assert "step.retrying a#1" in shown(reduce(only_ours, Due(5.0, Timer("attempt", 1, 1))))
    other = state_of(StepPlan("a", retry=Retry(on=KeyError), timeout=5.0))
    reduce(other, Begun(0.0, "a"))
    assert "step.failed a#1" in shown(reduce(other, Due(5.0, Timer("attempt", 1, 1))))


def test_cancelling_stops_what_runs_and_ends_when_it_has_stopped() -> None:
    state = state_of(StepPlan("a"), StepPlan("b", retry=RETRY), timeout=60.0)
    reduce(state, Begun(0.0, "a"))
    reduce(state, Sent(0.0, "b"))
    reduce(state, Failed(1.0, 2, 1, BOOM, retryable=True))
    commands = reduce(state, CancelAsked(2.0, "enough"))
    assert shown(commands) == [
        "ClearTimer run",
        "Stop a#1",
        "Stop b#1",
        "ClearTimer retry",
        "step.cancelled b#1",
        "SetTimer grace 7",
    ]
    assert reduce(state, CancelAsked(2.5, "again")) == []
    commands = reduce(state, Halted(3.0, 1, 1))
    end = commands[-1]
    assert isinstance(end, End)
    assert end.data == {"reason": "enough", "active_steps": ["a", "b"]}
    assert reduce(state, Finished(4.0, 1, 1, {})) == []


def test_what_does_not_stop_is_left_behind_after_the_grace_and_named() -> None:
    state = state_of(StepPlan("a"), StepPlan("b"), timeout=10.0, grace=1.0)
    reduce(state, Begun(0.0, "a"))
    reduce(state, Sent(0.0, "b"))
    commands = reduce(state, Due(10.0, Timer("run")))
    assert shown(commands) == ["ClearTimer run", "Stop a#1", "Stop b#1", "SetTimer grace 11"]
    reduce(state, Halted(10.5, 2, 1))
    commands = reduce(state, Due(11.0, Timer("grace")))
    assert shown(commands) == ["step.cancelled a#1", "ClearTimer grace", "run.timed_out"]
    end = commands[-1]
    assert isinstance(end, End)
    assert end.data == {
        "timeout": 10.0,
        "active_steps": ["a", "b"],
        "abandoned_steps": ["a"],
    }


def test_a_run_in_which_nothing_can_happen_any_more_fails_instead_of_hanging() -> None:
    state = state_of(StepPlan("a"))
    reduce(state, Begun(0.0, "a"))
    commands = reduce(state, Finished(1.0, 1, 1, {}))
    assert shown(commands) == ["step.completed a#1", "ClearTimer grace", "run.failed"]
    patient = state_of(StepPlan("a"), waits_outside=True)
    reduce(patient, Begun(0.0, "a"))
    assert shown(reduce(patient, Finished(1.0, 1, 1, {}))) == ["step.completed a#1"]


def test_called_steps_fail_for_their_caller_alone() -> None:
    state = RunState(Plan(), "r.")
    reduce(state, Begun(0.0, body=True))
    assert shown(reduce(state, Called(0.0, StepPlan("a")))) == ["step.started a#1", "Start a#1"]
    assert shown(reduce(state, Failed(1.0, 1, 1, BOOM))) == ["step.failed a#1"]
    commands = reduce(state, BodyFailed(2.0, BOOM, "a", 1))
    assert shown(commands) == ["ClearTimer grace", "run.failed"]
    assert reduce(state, Called(3.0, StepPlan("a"))) == []


def test_a_run_ends_after_its_children() -> None:
    state = RunState(Plan(), "r.")
    reduce(state, Begun(0.0, body=True))
    reduce(state, ChildBegun(0.0, "child"))
    assert shown(reduce(state, BodyFinished(1.0, 5))) == ["StopChild child", "SetTimer grace 6"]
    assert shown(reduce(state, ChildEnded(2.0, "child"))) == ["ClearTimer grace", "run.completed"]


def test_a_fan_out_costs_the_same_per_event_however_wide_it_is() -> None:
    """Counted, not timed: the commands of one more event don't grow with what runs already."""
    state = state_of(StepPlan("a", num_workers=10_000), waits_outside=True)
    reduce(state, Begun(0.0, "a"))
    counts = {len(reduce(state, Sent(0.0, "a"))) for _ in range(9_000)}
    assert counts == {2}


@pytest.mark.parametrize(("attempt", "pause"), [(1, 1.0), (2, 3.0), (3, 5.0), (4, None)], ids=str)
def test_the_pause_grows_up_to_its_limit_and_the_last_attempt_has_none(
    attempt: int, pause: float | None
) -> None:
    retry = Retry(attempts=4, delay=1.0, backoff=3.0, max_delay=5.0, jitter=False)
    assert retry.pause(attempt, 0.0) == pause
