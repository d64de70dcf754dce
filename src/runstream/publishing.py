"""Publishing from anywhere inside a run, without a handle: the run and step come from the context."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from functools import lru_cache
from time import time_ns
from typing import Any, Final, ParamSpec, TypeVar, cast

from msgspec import Raw

from . import process
from .context import Scope, current_scope
from .errors import InvalidInput
from .events import RESERVED_PREFIXES, check_name
from .payload import PayloadEncoder, payload_encoder
from .record import Draft, check_index
from .settings import ChildRun, environment_with, read_settings

P = ParamSpec("P")
T = TypeVar("T")

# Classes of payloads whose way is remembered: a program has far fewer, unless it makes them as it runs.
CLASSES_MAX: Final = 1024

logger = logging.getLogger(__name__)


@lru_cache(maxsize=4096)
def _user_kind(kind: object) -> str:
    name = check_name(kind, "kind")
    if name.startswith(RESERVED_PREFIXES):
        raise InvalidInput(
            f"the kind {name!r} is reserved: kinds that begin with {', '.join(RESERVED_PREFIXES)} are "
            "written by Runstream alone"
        )
    return name


class _Classes(dict[type, tuple[str, PayloadEncoder]]):
    """What a payload's class decides: the kind that it has by itself, and how it is encoded.

    A dictionary, because calling a cache takes longer than anything else before the encoding. A miss raises
    InvalidInput if that kind is reserved, or nothing of the class is a payload.
    """

    def __missing__(self, cls: type) -> tuple[str, PayloadEncoder]:
        found = _user_kind(getattr(cls, "__event_kind__", "event")), payload_encoder(cls)
        if len(self) >= CLASSES_MAX:
            self.clear()
        self[cls] = found
        return found


_by_class = _Classes()


@lru_cache(maxsize=4096)
def _name(name: object, what: str) -> str:
    return check_name(name, what)


def publish(
    payload: Any,
    *,
    kind: str | None = None,
    topic: str | None = None,
    correlation_id: str | None = None,
    index: int | None = None,
    priority: bool = False,
) -> None:
    """Publish one record into the run that the calling code belongs to.

    Returning means queued; it is durable when `flush`, `drain` or the end of the run says so. The payload
    is encoded here, so that changing it later changes nothing.

    Args:
        payload: a dict, `Event`, pydantic model, dataclass or msgspec struct; or JSON as bytes.
        kind: what sort of thing this is, for filters and the SSE `event:`; by default the event's own
            kind, else "event".
        topic: a named sub-stream of the run.
        correlation_id: groups records of one sub-flow (one per LLM generation, say); carried unchanged.
        index: the record's place in its group; carried unchanged.
        priority: send at once instead of lingering for company; the order stays the same.

    Outside any run the record is dropped and counted (`publisher_stats().dropped_outside`).

    Raises:
        InvalidInput: the payload is not JSON exactly as it is (NaN, too large, too deep, …), or a name
            is not acceptable or reserved. A `ValueError`.
        RunEnded: the run has ended, as far as this process knows.
        RunCancelled, StepTimedOut: the step that calls this was told to stop.
        QueueFull: the queue is full, and the policy is `raise` or the log was too slow for too long.
    """
    cls = payload.__class__
    try:
        if kind is None:
            kind, encode = _by_class[cls]
        else:
            kind, encode = _user_kind(kind), payload_encoder(cls)
        if topic is not None:
            topic = _name(topic, "topic")
        if correlation_id is not None:
            correlation_id = _name(correlation_id, "correlation_id")
    except TypeError as error:  # what cannot be hashed is not looked up
        raise InvalidInput(f"kind, topic and correlation_id are strings: {error}") from None
    if index is not None:
        index = check_index(index)
    scope = current_scope.get() or present_scope()
    if scope is None:
        _drop_outside(kind)
        return
    control = scope.control
    if control is not None and control.stopped:
        control.check()
    outlet = scope.outlet
    outlet.put(
        Draft(
            time_ns() // 1000,
            scope.run_id,
            kind,
            Raw(encode(payload, outlet.size_bytes_max)),
            topic,
            scope.step,
            scope.step_run_id,
            scope.attempt,
            correlation_id,
            index,
        ),
        priority,
    )


def flush(timeout: float = 2.0) -> bool:
    """Wait until everything queued before the call is stored: True, or False after `timeout` seconds.

    Blocks the calling thread; in async code use `await drain()`.
    """
    return process.wait_stored(timeout)


async def drain(timeout: float | None = None) -> bool:
    """Wait until everything queued before the call is stored: True, or False after `timeout` seconds.

    Without a timeout it waits as long as the log needs. Cancelling only stops the waiting.
    """
    waiting = [asyncio.wrap_future(ticket) for ticket in process.tickets()]
    if not waiting:
        return True
    try:
        done, pending = await asyncio.wait(waiting, timeout=timeout)
        return not pending and all(future.result() for future in done)
    finally:
        for future in waiting:
            future.cancel()


def bind(function: Callable[P, T]) -> Callable[P, T]:
    """Carry the present run and step into `function`, for threads and executors that aren't ours.

    >>> executor.submit(bind(work), item)  # doctest: +SKIP
    """
    scope = current_scope.get()
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def bound_async(*args: Any, **kwargs: Any) -> Any:
            token = current_scope.set(scope)
            try:
                return await function(*args, **kwargs)
            finally:
                current_scope.reset(token)

        return cast("Callable[P, T]", bound_async)

    @functools.wraps(function)
    def bound(*args: P.args, **kwargs: P.kwargs) -> T:
        token = current_scope.set(scope)
        try:
            return function(*args, **kwargs)
        finally:
            current_scope.reset(token)

    return bound


def run_environment() -> dict[str, str]:
    """This process's environment plus `RUNSTREAM_RUN`: a subprocess started with it publishes into the
    present run and step. Outside any run: just the environment.

    >>> subprocess.run([...], env=run_environment())  # doctest: +SKIP
    """
    scope = present_scope()
    return environment_with(None if scope is None else scope.as_child_run())


def publisher_stats() -> process.PublisherStats:
    """How many records of this process are queued, stored, dropped and failed."""
    return process.stats()


def present_scope() -> Scope | None:
    """The run and step that the calling code belongs to, a subprocess's by `RUNSTREAM_RUN`."""
    return current_scope.get() or _inherited_scope()


def _inherited_scope() -> Scope | None:
    """The run that the parent process named in `RUNSTREAM_RUN`, joined at the first use."""
    state = process.this_process()
    if state.looked_for_inherited:
        return state.inherited
    with state.opening:
        if not state.looked_for_inherited:
            state.inherited = _join(read_settings().run)
            state.looked_for_inherited = True
    return state.inherited


def _join(run: ChildRun | None) -> Scope | None:
    if run is None:
        return None
    if run.url.startswith("memory:"):
        logger.warning("run %s: a memory log cannot be reached from here: use sqlite:", run.run_id)
        return None
    outbox = process.publisher(run.url).add_outbox(run.run_id, run.root_run_id)
    return Scope(outbox, run.run_id, run.step, run.step_run_id, run.attempt)


def _drop_outside(kind: str) -> None:
    process.count_outside()
    logger.debug("a record of kind %r was published outside any run, and dropped", kind)
