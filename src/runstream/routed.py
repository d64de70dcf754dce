"""Running the steps of a workflow: each event that the engine gives to a step becomes a task (or, for a
plain function, a thread), and what the step returns becomes the next events.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from contextvars import Context as ContextVars
from typing import Any, cast

from . import process
from .attempt import HALTING, Attempt
from .collector import Collector
from .context import Scope, current_scope
from .errors import InvalidInput
from .events import Event, InputRequiredEvent, StopEvent
from .graph import Graph, RoutedStep
from .mailbox import Mailbox
from .payload import result_fields
from .run_state import Plan
from .runner import Runner
from .state_store import FreeState, StateStore
from .ticks import Begun, CancelAsked, Finished, Halted, Sent, Work
from .workflow_context import Context, is_event


class RoutedJob:
    """One run of a workflow. Also what its steps' contexts share."""

    def __init__(
        self,
        graph: Graph,
        start: Event,
        *,
        timeout: float | None,
        grace: float,
        verbose: bool,
    ) -> None:
        self.plan = Plan(
            steps=graph.plans,
            route=graph.route,
            kind_of=_kind_of,
            timeout=timeout,
            grace=grace,
            waits_outside=graph.waits_outside,
        )
        self.event_classes = graph.event_classes
        self.collector = Collector()
        self.mailbox = Mailbox()
        self.store: StateStore[Any] = StateStore(graph.state or FreeState)
        self._graph = graph
        self._start = start
        self._verbose = verbose
        self._attempts: dict[int, tuple[Attempt, Context[Any]]] = {}
        self._home_thread = 0

    def begin(self, runner: Runner) -> None:
        self._runner = runner
        self._conductor = runner.conductor
        self._variables = cast(ContextVars, runner.context)
        self._scope = runner.scope
        self._loop = asyncio.get_running_loop()
        self._home_thread = threading.get_ident()
        self._conductor.feed(Begun(time.monotonic(), self._start))

    def send(self, event: Event, step: str | None) -> None:
        if not is_event(event):
            raise InvalidInput(f"an event is sent to steps, not a {type(event).__name__}")
        if step is not None:
            known = self._graph.steps.get(step)
            if known is None or not known.takes(type(event)):
                raise InvalidInput(f"no step {step!r} accepts a {type(event).__name__}")
        elif self.mailbox.offer(event):
            return
        elif not self._graph.route(event):
            raise InvalidInput(f"no step accepts a {type(event).__name__}, and none waits for one")
        self._conductor.feed(Sent(time.monotonic(), event, step))

    def receive(self, event: Event) -> None:
        if self.mailbox.offer(event):
            return
        if self._graph.route(event):
            self._conductor.feed(Sent(time.monotonic(), event))
        else:
            self.mailbox.keep(event)

    def result_of(self, result: Any, size_bytes_max: int) -> tuple[Any, dict[str, object]]:
        if type(result) is StopEvent:
            return result.result, result_fields(result.result, size_bytes_max=size_bytes_max)
        fields = result_fields(result, size_bytes_max=size_bytes_max)
        return result, {**fields, "event": _kind_of(result)}

    # --- carrying out ----------------------------------------------------------------------------

    def start(self, work: Work) -> None:
        step = self._graph.steps[work.step.name]
        attempt = Attempt(self._conductor, work)
        scope = Scope(
            self._scope.outlet,
            self._scope.run_id,
            step.name,
            work.step_run_id,
            work.attempt,
            control=attempt,
        )
        variables = self._variables.copy()
        variables.run(current_scope.set, scope)
        context = Context[Any](self, scope)
        self._attempts[work.id] = attempt, context
        if work.state != "running":
            attempt.stop()  # told to before it was there to hear it
        if self._verbose:
            _say(f"{self._runner.run_id}: step {step.name} (attempt {work.attempt}) begins")
        if not step.is_async:
            process.threads().run(lambda: variables.run(self._run_plain, step, context, attempt))
        elif threading.get_ident() == self._home_thread:
            self._create_task(step, context, attempt, variables)
        else:
            self._loop.call_soon_threadsafe(self._create_task, step, context, attempt, variables)

    def stop(self, work: Work, attempt: int, timed_out: float | None) -> None:
        control, context = self._attempts.get(work.id, (None, None))
        if control is None or context is None or control.number != attempt:
            return
        control.stop(timed_out)
        if timed_out is not None:
            context.undo_collecting()

    def stop_body(self) -> None:
        """A workflow has none."""

    def _create_task(
        self, step: RoutedStep, context: Context[Any], attempt: Attempt, variables: ContextVars
    ) -> None:
        self._loop.create_task(self._run(step, context, attempt), name=step.name, context=variables)

    async def _run(self, step: RoutedStep, context: Context[Any], attempt: Attempt) -> None:
        begun = time.monotonic()
        try:
            # From here on it can be cancelled: a task that is so before its first step never gets here,
            # and nobody would hear of its end.
            attempt.check()
            attempt.run_in(asyncio.current_task())
            result = await step.call(context, cast(Work, attempt.work).event)
        except BaseException as error:
            self._failed(context, attempt, error)
            if not isinstance(error, (Exception, asyncio.CancelledError)):
                raise
        else:
            self._finished(step, context, attempt, result, begun)

    def _run_plain(self, step: RoutedStep, context: Context[Any], attempt: Attempt) -> None:
        begun = time.monotonic()
        try:
            attempt.check()
            result = step.call(context, cast(Work, attempt.work).event)
        except BaseException as error:  # noqa: BLE001 - a thread has nobody to raise it to
            self._failed(context, attempt, error)
        else:
            self._finished(step, context, attempt, result, begun)

    def _finished(
        self,
        step: RoutedStep,
        context: Context[Any],
        attempt: Attempt,
        result: Any,
        begun: float,
    ) -> None:
        if attempt.timed_out is not None:
            self._forget(attempt)  # it returned too late: the engine has decided already
            return
        try:
            events, stop, kinds = self._read_result(step, context, attempt, result)
        except Exception as error:  # noqa: BLE001 - the step's result is at fault
            self._failed(context, attempt, error, for_good=True)
            return
        work = cast(Work, attempt.work)
        if self._verbose:
            _say(f"{self._runner.run_id}: step {step.name} returns {kinds or 'nothing'}")
        now = time.monotonic()
        data: dict[str, Any] = {"event": kinds, "duration": round(now - begun, 6)}
        self._forget(attempt)
        self._conductor.feed(Finished(now, work.id, attempt.number, data, events, stop))

    def _read_result(
        self, step: RoutedStep, context: Context[Any], attempt: Attempt, result: Any
    ) -> tuple[tuple[Event, ...], tuple[Any] | None, Any]:
        """The events to route, the boxed end if there is one, and what the record says."""
        if result is None:
            return (), None, None
        if isinstance(result, StopEvent):
            return (), (result,), _kind_of(result)
        several = _listed(result)
        routed: list[Event] = []
        for event in several:
            if not is_event(event) or isinstance(event, StopEvent):
                raise InvalidInput(
                    f"step {step.name!r} returned a {type(event).__name__}"
                    f"{' in a list' if type(result) is list else ''}: a step returns an event, "
                    "a list of events to route, or None"
                )
        for event in several:
            if self.mailbox.offer(event):
                continue
            if self._graph.route(event):
                routed.append(event)
            elif isinstance(event, InputRequiredEvent):
                if not attempt.stopped:
                    context.write_event_to_stream(event)
            else:
                raise InvalidInput(
                    f"step {step.name!r} returned a {type(event).__name__}, which no step accepts"
                )
        kinds = [_kind_of(event) for event in several]
        return tuple(routed), None, kinds if type(result) is list else kinds[0]

    def _failed(
        self,
        context: Context[Any],
        attempt: Attempt,
        error: BaseException,
        *,
        for_good: bool = False,
    ) -> None:
        work = cast(Work, attempt.work)
        context.undo_collecting()
        self._forget(attempt)
        if attempt.timed_out is not None:
            return  # the engine has decided already, when the time was up
        if attempt.stopped:
            self._conductor.feed(Halted(time.monotonic(), work.id, attempt.number))
        elif isinstance(error, HALTING):
            # Cancelled, but not by us: whoever cancels a step wants its run to end.
            reason = f"step {work.step.name!r} was cancelled ({type(error).__name__})"
            self._conductor.feed(CancelAsked(time.monotonic(), reason))
            self._conductor.feed(Halted(time.monotonic(), work.id, attempt.number))
        else:
            self._conductor.fail(work, attempt.number, error, for_good=for_good)

    def _forget(self, attempt: Attempt) -> None:
        work = cast(Work, attempt.work)
        attempt.task = None
        if self._attempts.get(work.id, (None,))[0] is attempt:
            del self._attempts[work.id]


def _kind_of(event: Any) -> str | None:
    return None if event is None else event.__event_kind__


def _say(line: str) -> None:
    print(line, file=sys.stderr)  # noqa: T201 - what `verbose` asks for


def _listed(result: Any) -> list[Any]:
    return [*result] if type(result) is list else [result]
