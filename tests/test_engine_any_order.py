"""The engine: whatever order things happen in, its stream is legal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_runs import BOOM, shown, state_of
from runstream.engine import reduce
from runstream.record import TERMINAL_KINDS
from runstream.retry import Retry
from runstream.run_state import RunState
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
    Write,
)

T = TypeVar("T")


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
