"""The engine: a reducer from a run's state and what happened to the new state and what is to be done.

No clock, no tasks, no input or output: time and chance come with the ticks. The state is changed in place
(a fan-out of thousands must not copy it), but only here, and it is a function of the ticks alone. Each
tick costs the same however much is running, except one that ends the run.

Promised for any ticks in any order: each attempt's `step.started` comes before its `step.completed`,
`step.failed`, `step.retrying` or `step.cancelled`; the run has exactly one end, and nothing follows it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .errors import StepTimedOut
from .run_state import RunState
from .ticks import (
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

_RUN_LIMIT = Timer("run")
_GRACE = Timer("grace")

STUCK = (
    "no step is running and none has anything to do, but none has returned a StopEvent: the workflow "
    "could only wait for ever"
)


def reduce(state: RunState, tick: Tick) -> list[Command]:
    """Take one tick in. The commands are in the order in which their records belong."""
    commands: list[Command] = []
    if state.phase != "ended":
        _REDUCERS[type(tick)](state, tick, commands)
        if not state.works and not state.body and not state.children:
            if state.phase == "ending":
                _finish(state, commands)
            elif not state.plan.waits_outside and state.plan.steps:
                error = {"type": "WorkflowStuck", "message": STUCK}
                _end(state, tick.now, commands, _failure(None, error, None, None))
                _finish(state, commands)
    return commands


# --- work ----------------------------------------------------------------------------------------


def _begun(state: RunState, tick: Begun, commands: list[Command]) -> None:
    state.body = tick.body
    if state.plan.timeout is not None:
        commands.append(SetTimer(_RUN_LIMIT, tick.now + state.plan.timeout))
    if tick.event is not None:
        _deliver(state, tick.event, None, tick.now, commands)


def _sent(state: RunState, tick: Sent, commands: list[Command]) -> None:
    if state.phase == "running":
        _deliver(state, tick.event, tick.step, tick.now, commands)


def _deliver(
    state: RunState, event: Any, only: str | None, now: float, commands: list[Command]
) -> None:
    for name in state.plan.route(event) if only is None else (only,):
        step = state.plan.steps[name]
        busy = state.busy.get(name, 0)
        if step.num_workers is not None and busy >= step.num_workers:
            state.queues.setdefault(name, deque()).append(event)
        else:
            state.busy[name] = busy + 1
            _begin(state, step, event, now, commands, routed=True)


def _called(state: RunState, tick: Called, commands: list[Command]) -> None:
    if state.phase == "running":
        _begin(state, tick.step, None, tick.now, commands, routed=False)


def _begin(
    state: RunState,
    step: StepPlan,
    event: Any,
    now: float,
    commands: list[Command],
    *,
    routed: bool,
) -> None:
    state.count += 1
    work = Work(state.count, step, f"{state.prefix}{state.count}", event, routed, now)
    state.works[work.id] = work
    _start(state, work, now, commands)


def _start(state: RunState, work: Work, now: float, commands: list[Command]) -> None:
    kind = state.plan.kind_of(work.event)
    commands.append(Write("step.started", work, work.attempt, {"event": kind} if kind else {}))
    commands.append(Start(work))
    if work.step.timeout is not None:
        timer = Timer("attempt", work.id, work.attempt)
        commands.append(SetTimer(timer, now + work.step.timeout))


def _present(state: RunState, work_id: int, attempt: int) -> Work | None:
    """The work, if that attempt of it is the one under way."""
    work = state.works.get(work_id)
    if work is None or work.attempt != attempt or work.state == "delayed":
        return None
    return work


def _finished(state: RunState, tick: Finished, commands: list[Command]) -> None:
    work = _present(state, tick.work, tick.attempt)
    if work is None:
        return
    commands.append(Write("step.completed", work, work.attempt, tick.data))
    _clear_attempt_timer(work, commands)
    if state.phase == "running":
        if tick.stop is not None:
            _remove(state, work)
            _end(state, tick.now, commands, End("run.completed", {}, tick.stop))
            return
        for event in tick.events:
            _deliver(state, event, None, tick.now, commands)
    _drop(state, work, tick.now, commands)


def _failed(state: RunState, tick: Failed, commands: list[Command]) -> None:
    work = _present(state, tick.work, tick.attempt)
    if work is not None:
        _clear_attempt_timer(work, commands)
        _fail(state, work, tick.now, commands, tick.error, tick.noise, retryable=tick.retryable)


def _fail(
    state: RunState,
    work: Work,
    now: float,
    commands: list[Command],
    error: dict[str, str],
    noise: float,
    *,
    retryable: bool,
) -> None:
    retry = work.step.retry
    pause = None
    if retry is not None and retryable and state.phase == "running":
        pause = retry.pause(work.attempt, noise)
    if pause is not None:
        data: dict[str, Any] = {"attempt": work.attempt, "error": error, "delay": round(pause, 6)}
        commands.append(Write("step.retrying", work, work.attempt, data))
        commands.append(SetTimer(Timer("retry", work.id, work.attempt), now + pause))
        work.state = "delayed"
        return
    elapsed = round(now - work.begun, 6)
    data = {"error": error, "attempts": work.attempt, "elapsed_seconds": elapsed}
    commands.append(Write("step.failed", work, work.attempt, data))
    if state.phase == "running" and work.routed:
        _remove(state, work)
        end = _failure(work.step.name, error, work.attempt, elapsed)
        end.work = work.id
        _end(state, now, commands, end)
    else:
        _drop(state, work, now, commands)


def _halted(state: RunState, tick: Halted, commands: list[Command]) -> None:
    work = state.works.get(tick.work)
    if work is None or work.attempt != tick.attempt:
        return
    if work.state == "delayed":
        commands.append(ClearTimer(Timer("retry", work.id, work.attempt)))
    else:
        _clear_attempt_timer(work, commands)
    commands.append(Write("step.cancelled", work, work.attempt, {}))
    _drop(state, work, tick.now, commands)


def _remove(state: RunState, work: Work) -> None:
    """The work is done; what waits behind it does not begin."""
    del state.works[work.id]
    work.state = "done"


def _drop(state: RunState, work: Work, now: float, commands: list[Command]) -> None:
    """The work is done: the next one of its step takes its place."""
    _remove(state, work)
    if not work.routed:
        return
    name = work.step.name
    queue = state.queues.get(name)
    if queue and state.phase == "running":
        _begin(state, work.step, queue.popleft(), now, commands, routed=True)
    else:
        state.busy[name] -= 1


def _clear_attempt_timer(work: Work, commands: list[Command]) -> None:
    if work.step.timeout is not None:
        commands.append(ClearTimer(Timer("attempt", work.id, work.attempt)))


# --- time ----------------------------------------------------------------------------------------


def _due(state: RunState, tick: Due, commands: list[Command]) -> None:
    timer = tick.timer
    if timer.kind == "run":
        limit = state.plan.timeout
        data = {"timeout": limit, "active_steps": state.active_steps}
        _end(state, tick.now, commands, End("run.timed_out", data))
    elif timer.kind == "grace":
        _abandon(state, commands)
    else:
        work = state.works.get(timer.work)
        if work is None or work.attempt != timer.attempt or state.phase != "running":
            return
        if timer.kind == "retry" and work.state == "delayed":
            work.attempt += 1
            work.state = "running"
            _start(state, work, tick.now, commands)
        elif timer.kind == "attempt" and work.state == "running":
            _time_out(state, work, tick, commands)


def _time_out(state: RunState, work: Work, tick: Due, commands: list[Command]) -> None:
    limit = work.step.timeout
    commands.append(Stop(work, work.attempt, timed_out=limit))
    error = {
        "type": StepTimedOut.__name__,
        "message": f"step {work.step.name!r} exceeded its {limit:g} s",
    }
    retry = work.step.retry
    retryable = retry is not None and retry.covers(StepTimedOut)
    _fail(state, work, tick.now, commands, error, tick.noise, retryable=retryable)


# --- the end -------------------------------------------------------------------------------------


def _cancel_asked(state: RunState, tick: CancelAsked, commands: list[Command]) -> None:
    data = {"reason": tick.reason, "active_steps": state.active_steps}
    _end(state, tick.now, commands, End("run.cancelled", data))


def _child_begun(state: RunState, tick: ChildBegun, commands: list[Command]) -> None:
    state.children.add(tick.run_id)
    if state.phase != "running":
        commands.append(StopChild(tick.run_id))


def _child_ended(state: RunState, tick: ChildEnded, _: list[Command]) -> None:
    state.children.discard(tick.run_id)


def _body_finished(state: RunState, tick: BodyFinished, commands: list[Command]) -> None:
    state.body = False
    _end(state, tick.now, commands, End("run.completed", {}, (tick.result,)))


def _body_failed(state: RunState, tick: BodyFailed, commands: list[Command]) -> None:
    state.body = False
    _end(state, tick.now, commands, _failure(tick.step, tick.error, tick.attempts, None))


def _body_halted(state: RunState, tick: BodyHalted, commands: list[Command]) -> None:
    state.body = False
    data = {"reason": tick.reason, "active_steps": state.active_steps}
    _end(state, tick.now, commands, End("run.cancelled", data))


def _failure(
    step: str | None, error: dict[str, str], attempts: int | None, elapsed: float | None
) -> End:
    data = {
        "step_name": step,
        "exception": error,
        "attempts": attempts,
        "elapsed_seconds": elapsed,
    }
    return End("run.failed", data)


def _end(state: RunState, now: float, commands: list[Command], end: End) -> None:
    """Begin to end: everything that runs is stopped. What ends the run first decides how it ends."""
    if state.phase != "running":
        return
    state.phase = "ending"
    state.end = end
    state.queues.clear()
    if state.plan.timeout is not None:
        commands.append(ClearTimer(_RUN_LIMIT))
    for work in list(state.works.values()):
        commands.append(Stop(work, work.attempt))
        if work.state == "delayed":
            commands.append(ClearTimer(Timer("retry", work.id, work.attempt)))
            commands.append(Write("step.cancelled", work, work.attempt, {}))
            _remove(state, work)
        else:
            work.state = "stopping"
    if state.body:
        commands.append(StopBody())
    commands += [StopChild(run_id) for run_id in sorted(state.children)]
    if state.works or state.body or state.children:
        commands.append(SetTimer(_GRACE, now + state.plan.grace))


def _abandon(state: RunState, commands: list[Command]) -> None:
    """The grace is over: end without waiting for what has not stopped."""
    if state.phase != "ending":
        return
    state.abandoned = state.active_steps
    for work in state.works.values():
        commands.append(Write("step.cancelled", work, work.attempt, {"abandoned": True}))
        work.state = "done"
    state.works.clear()
    state.children.clear()
    state.body = False


def _finish(state: RunState, commands: list[Command]) -> None:
    state.phase = "ended"
    end = state.end
    if end is not None:
        if state.abandoned:
            end.data["abandoned_steps"] = state.abandoned
        commands.append(ClearTimer(_GRACE))
        commands.append(end)


_REDUCERS: dict[type, Callable[[RunState, Any, list[Command]], None]] = {
    Begun: _begun,
    Sent: _sent,
    Called: _called,
    Finished: _finished,
    Failed: _failed,
    Halted: _halted,
    Due: _due,
    CancelAsked: _cancel_asked,
    ChildBegun: _child_begun,
    ChildEnded: _child_ended,
    BodyFinished: _body_finished,
    BodyFailed: _body_failed,
    BodyHalted: _body_halted,
}
