"""Steps: the unit of work with retries and a time limit. A declaration; running it is others' work.

A step with a Context or Event parameter is event-routed: a workflow calls it with the events that it
accepts. Any other is an ordinary function that, called inside a run, runs as a step of it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import copy_context
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast, overload

from .context import current_scope
from .errors import InvalidInput
from .events import check_name
from .retry import Retry
from .signature import Signature, caller_frame, local_names, read_signature
from .step_future import StepFuture
from .ticks import StepPlan

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

# Pieces of work of one step at a time, unless the step says otherwise: what the systems that people come
# from do.
NUM_WORKERS: Final = 4


class Step(Generic[P, R_co]):
    """A function made a step by `@step`. Calling it outside any run just calls the function."""

    def __init__(
        self,
        function: Callable[P, R_co],
        plan: StepPlan,
        *,
        accept_subclasses: bool = False,
        names: dict[str, Any] | None = None,
    ) -> None:
        self.function = function
        self.plan = plan
        self.accept_subclasses = accept_subclasses
        self.is_async = inspect.iscoroutinefunction(function)
        self._names = names or {}
        functools.update_wrapper(self, function)

    @property
    def name(self) -> str:
        return self.plan.name

    @functools.cached_property
    def signature(self) -> Signature:
        """What the annotations say. Read at the first use: they may name what is defined later."""
        return read_signature(self.function, self._names)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        scope = current_scope.get()
        if scope is None or scope.control is None or self.signature.is_routed:
            return self.function(*args, **kwargs)
        return cast(R_co, scope.control.call(self, args, kwargs))

    @overload
    def submit(
        self: Step[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs
    ) -> StepFuture[T]: ...
    @overload
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> StepFuture[R_co]: ...
    def submit(self, *args: P.args, **kwargs: P.kwargs) -> StepFuture[Any]:
        """Start the step beside the calling code: a plain function in a thread, an async one as a task.

        Raises:
            InvalidInput: the step is event-routed.
        """
        if self.signature.is_routed:
            raise InvalidInput(f"the step {self.name!r} takes events: a workflow runs it")
        scope = current_scope.get()
        if scope is None or scope.control is None:
            return self._submit_outside(args, kwargs)
        return scope.control.submit(self, args, kwargs)

    def _submit_outside(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> StepFuture[Any]:
        """An ordinary call, but beside the caller."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        call = functools.partial(self.function, *args, **kwargs)
        context = copy_context()

        def run() -> None:
            try:
                future.set_result(asyncio.run(cast(Any, call())) if self.is_async else call())
            except BaseException as error:  # noqa: BLE001 - the future's owner gets it
                future.set_exception(error)

        threading.Thread(target=context.run, args=(run,), daemon=True).start()
        return StepFuture(future)

    @overload
    def __get__(self, instance: None, owner: type) -> Step[P, R_co]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Step[..., R_co]: ...
    def __get__(self, instance: object | None, owner: type) -> Step[..., R_co]:
        return self if instance is None else self.bound_to(instance)

    def bound_to(self, instance: object) -> Step[..., R_co]:
        """The step as a method of `instance`."""
        method = cast("Callable[..., R_co]", self.function.__get__(instance, type(instance)))
        return Step(method, self.plan, accept_subclasses=self.accept_subclasses, names=self._names)

    def __repr__(self) -> str:
        return f"<step {self.name!r}>"


@overload
def step(function: Callable[P, R], /) -> Step[P, R]: ...
@overload
def step(
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: float | None = None,
    num_workers: int = NUM_WORKERS,
    accept_subclasses: bool = False,
) -> Callable[[Callable[P, R]], Step[P, R]]: ...
def step(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: float | None = None,
    num_workers: int = NUM_WORKERS,
    accept_subclasses: bool = False,
) -> Any:
    """Make a function a step: `@step`, or `@step(retry=Retry(attempts=3), timeout=30)`.

    Args:
        name: what the stream calls it; by default the function's name.
        retry: attempts after an error, and their pauses; by default none.
        timeout: seconds that an attempt may last. An async one is cancelled then; a plain function's
            thread is told to stop (its next `publish` raises) and no longer waited for.
        num_workers: for an event-routed step, how many events it works on at a time.
        accept_subclasses: for an event-routed step, whether it also takes subclasses of its events.

    Raises:
        InvalidInput: a value is out of range, or a generator was given.
    """
    frame = caller_frame(1)
    if timeout is not None and not timeout > 0:
        raise InvalidInput(f"a step's timeout is a number of seconds above 0, not {timeout}")
    if num_workers < 1:
        raise InvalidInput(f"a step has at least one worker, not {num_workers}")

    def declare(function: Callable[..., Any]) -> Step[..., Any]:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise InvalidInput(
                f"{function.__name__!r} is a generator: a step returns, and publishes on the way"
            )
        plan = StepPlan(
            check_name(function.__name__ if name is None else name, "step"),
            num_workers,
            retry,
            timeout,
        )
        return Step(
            function,
            plan,
            accept_subclasses=accept_subclasses,
            names=local_names(function, frame),
        )

    return declare if function is None else declare(function)
