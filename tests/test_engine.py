"""The engine: ticks in, commands out; no clock, no tasks, nothing real."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.engine import Plan, RunState, reduce
from runstream.record import TERMINAL_KINDS
from runstream.retry import Retry
from runstream.ticks import (
    Begun,
    BodyFailed,
    BodyFinished,
    BodyHalted,
    Called,
    CancelAsked,
    ChildBegun,
    ChildEnded,
    ClearTimer,
    Command,
    Due,
    End,
    Failed,
    Finished,
    Halted,
    Sent,
    SetTimer,
    Start,
    StepPlan,
    Stop,
    StopBody,
    StopChild,
    Tick,
    Timer,
    Work,
    Write,
)

T = TypeVar("T")

BOOM = {"type": "ValueError", "message": "boom"}
RETRY = Retry(attempts=3, delay=2.0, jitter=False)


def state_of(*steps: StepPlan, **options: Any) -> RunState:
    """A run of steps that each accept the events which begin with their name."""
    plans = {step.name: step for step in steps}

    def route(event: Any) -> tuple[str, ...]:
        return tuple(name for name in plans if str(event).startswith(name))

    return RunState(Plan(steps=plans, route=route, kind_of=lambda event: event, **options), "r.")


def shown(commands: list[Command]) -> list[str]:
    """Commands in short: `step.started a#1`, `Start a#1`, `SetTimer retry 2.0`."""
    lines: list[str] = []
    for one in commands:
        match one:
            case Write():
                lines.append(f"{one.kind} {one.work.step.name}#{one.attempt}")
            case Start():
                lines.append(f"Start {one.work.step.name}#{one.work.attempt}")
            case Stop():
                lines.append(f"Stop {one.work.step.name}#{one.attempt}")
            case SetTimer():
                lines.append(f"SetTimer {one.timer.kind} {one.at:g}")
            case ClearTimer():
                lines.append(f"ClearTimer {one.timer.kind}")
            case End():
                lines.append(one.kind)
            case StopChild():
                lines.append(f"StopChild {one.run_id}")
            case StopBody():
                lines.append("StopBody")
    return lines


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


# --- any order -----------------------------------------------------------------------------------

STEPS = (
    StepPlan("a", num_workers=2, retry=Retry(attempts=2, delay=1.0)),
    StepPlan("b", num_workers=1, timeout=3.0, retry=Retry(attempts=3, delay=0.0)),
    StepPlan("c", timeout=2.0),
)
EVENTS = ("a", "b", "c", "ab")


class World:
    """What carries commands out in the wildest order: hypothesis decides what happens next."""

    def __init__(self, draw: st.DataObject) -> None:
        self.draw = draw
        self.now = 0.0
        self.state = state_of(*STEPS, timeout=50.0, grace=4.0, waits_outside=True)
        self.stream: list[Write | End] = []
        # Attempts that have been started and have said nothing yet; also those told to stop.
        self.alive: list[tuple[int, int]] = []
        self.told: set[tuple[int, int]] = set()
        self.timers: dict[Timer, float] = {}
        self.body = False
        self.children: set[str] = set()

    def choose(self, choices: Sequence[T]) -> T:
        return self.draw.draw(st.sampled_from(choices))

    def feed(self, tick: Tick) -> None:
        for one in reduce(self.state, tick):
            match one:
                case Write():
                    self.stream.append(msgspec.structs.replace(one, work=one.work))
                case End():
                    self.stream.append(one)
                case Start():
                    self.alive.append((one.work.id, one.work.attempt))
                case Stop():
                    self.told.add((one.work.id, one.attempt))
                case SetTimer():
                    assert one.timer not in self.timers
                    self.timers[one.timer] = one.at
                case ClearTimer():
                    self.timers.pop(one.timer, None)
                case StopBody():
                    assert self.body
                case StopChild():
                    assert one.run_id in self.children

    def step(self) -> None:
        self.now += self.draw.draw(st.sampled_from((0.0, 0.5, 2.0)))
        choices = ["send", "call", "stale", "cancel" if self.now > 10 else "send"]
        choices += ["attempt"] * 6 if self.alive else []
        choices += ["timer"] * 3 if self.timers else []
        choices += ["body"] if self.body else []
        choices += ["child"]
        getattr(self, "do_" + self.draw.draw(st.sampled_from(choices)))()

    def do_send(self) -> None:
        self.feed(Sent(self.now, self.draw.draw(st.sampled_from(EVENTS))))

    def do_call(self) -> None:
        self.feed(Called(self.now, self.draw.draw(st.sampled_from(STEPS))))

    def do_cancel(self) -> None:
        self.feed(CancelAsked(self.now))

    def do_attempt(self) -> None:
        work, attempt = self.alive.pop(self.draw.draw(st.integers(0, len(self.alive) - 1)))
        self.feed(self.answer(work, attempt))

    def do_stale(self) -> None:
        """Something about an attempt that may be over, or never was."""
        self.feed(self.answer(self.draw.draw(st.integers(0, 5)), self.draw.draw(st.integers(1, 3))))

    def answer(self, work: int, attempt: int) -> Tick:
        match self.draw.draw(st.sampled_from(("fine", "fail", "halt", "stop"))):
            case "fine":
                events = tuple(self.draw.draw(st.lists(st.sampled_from(EVENTS), max_size=2)))
                return Finished(self.now, work, attempt, {}, events=events)
            case "fail":
                return Failed(self.now, work, attempt, BOOM, retryable=True, noise=0.5)
            case "halt":
                return Halted(self.now, work, attempt)
            case _:
                rare = self.draw.draw(st.integers(0, 9)) == 0
                return Finished(self.now, work, attempt, {}, stop=(1,) if rare else None)

    def do_timer(self) -> None:
        timer = self.draw.draw(st.sampled_from(sorted(self.timers, key=str)))
        self.now = max(self.now, self.timers.pop(timer))
        self.feed(Due(self.now, timer, 0.3))

    def do_child(self) -> None:
        if self.choose((True, False)) and self.children:
            child = min(self.children)
            self.feed(ChildEnded(self.now, child))
            self.children.discard(child)
        elif self.state.phase != "ended":
            child = f"child-{len(self.stream)}-{self.now}"
            self.children.add(child)
            self.feed(ChildBegun(self.now, child))

    def do_body(self) -> None:
        self.body = False
        end: Tick = BodyFinished(self.now, 1)
        match self.draw.draw(st.integers(0, 2)):
            case 0:
                end = BodyFailed(self.now, BOOM)
            case 1:
                end = BodyHalted(self.now)
            case _:
                pass
        self.feed(end)


def check_legal(stream: list[Write | End], state: RunState) -> None:
    begun: dict[str, int] = {}
    over: set[tuple[str, int]] = set()
    retrying: dict[str, int] = {}
    for at, one in enumerate(stream):
        if isinstance(one, End):
            assert one.kind in TERMINAL_KINDS
            assert at == len(stream) - 1, "something follows the end"
            continue
        key = one.work.step_run_id
        if one.kind == "step.started":
            assert one.attempt == begun.get(key, 0) + 1
            if one.attempt > 1:
                assert retrying.pop(key) == one.attempt - 1
            begun[key] = one.attempt
            continue
        assert begun.get(key) == one.attempt, f"{one.kind} of an attempt that never started"
        if one.kind == "step.retrying":
            assert one.data["attempt"] == one.attempt
            assert one.data["error"]["type"]
            assert one.data["delay"] >= 0
            retrying[key] = one.attempt
        elif one.kind == "step.cancelled" and key in retrying:
            retrying.pop(key)
        assert (key, one.attempt) not in over or one.kind == "step.cancelled"
        over.add((key, one.attempt))
    if state.phase == "ended":
        assert isinstance(stream[-1], End)
        assert not retrying
        assert set(begun.items()) <= over


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_order_of_what_can_happen_gives_a_legal_stream(data: st.DataObject) -> None:
    world = World(data)
    world.body = data.draw(st.booleans())
    world.feed(Begun(0.0, data.draw(st.sampled_from((None, *EVENTS))), body=world.body))
    for _ in range(data.draw(st.integers(0, 60))):
        world.step()
    check_legal(world.stream, world.state)
    # Whatever the state, a cancel and the grace that follows it end the run, once.
    world.feed(CancelAsked(world.now + 1))
    world.feed(Due(world.now + 100, Timer("grace")))
    assert world.state.phase == "ended"
    check_legal(world.stream, world.state)
    assert sum(isinstance(one, End) for one in world.stream) == 1
    for _ in range(3):
        world.step()
    assert isinstance(world.stream[-1], End)


@given(st.data())
def test_the_same_ticks_give_the_same_commands(data: st.DataObject) -> None:
    ticks: list[Tick] = [Begun(0.0, "ab")]
    answers = World(data)
    ticks += [
        answers.answer(data.draw(st.integers(1, 4)), data.draw(st.integers(1, 2)))
        for _ in range(data.draw(st.integers(0, 20)))
    ]

    def run() -> list[list[str]]:
        state = state_of(*STEPS, waits_outside=True)
        return [shown(reduce(state, tick)) for tick in ticks]

    assert run() == run()


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
