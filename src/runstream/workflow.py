"""Workflows: steps that pass events to each other, as a class or as a list of functions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from .errors import InvalidInput
from .events import StartEvent, check_name
from .graph import Graph
from .handler import Handler
from .launch import launch_in_loop, make_runner
from .routed import RoutedJob
from .step import Step

# How long the end of a run waits for steps that were told to stop (seconds).
CANCEL_GRACE_S = 5.0


class Workflow:
    """Steps and the events between them: subclass it, or give it free functions as `steps`.

    >>> class Greeting(Workflow):
    ...     @step
    ...     async def greet(self, ctx: Context, ev: StartEvent) -> StopEvent:
    ...         return StopEvent(result=f"Hello, {ev.name}!")

    Args:
        name: what runs of it are called; by default the class's name.
        steps: free functions declared with `@step`, beside the methods of the class.
        timeout: seconds after which a run ends as timed out.
        verbose: print each step to stderr as it begins and ends.
        cancel_grace: seconds that the end of a run waits for steps which were told to stop.
        check: False skips the check that every event has a producer and a consumer.
    """

    def __init__(
        self,
        name: str | None = None,
        steps: Iterable[Step[..., Any]] = (),
        *,
        timeout: float | None = None,
        verbose: bool = False,
        cancel_grace: float = CANCEL_GRACE_S,
        check: bool = True,
    ) -> None:
        if timeout is not None and not timeout > 0:
            raise InvalidInput(f"a timeout is a number of seconds above 0, not {timeout}")
        self.name = check_name(name or type(self).__name__, "workflow")
        self._free_steps = tuple(steps)
        for one in cast("tuple[object, ...]", self._free_steps):
            if not isinstance(one, Step):
                raise InvalidInput(f"steps are functions declared with @step, not {one!r}")
        self.run_timeout = timeout
        self._verbose = verbose
        self._cancel_grace = cancel_grace
        self._check = check
        self._graph: Graph | None = None

    @property
    def graph(self) -> Graph:
        """The steps and their routes, checked.

        Raises:
            InvalidInput: an event has no producer or no consumer, or a step cannot be routed to.
        """
        if self._graph is None:
            methods = [one.bound_to(self) for one in _declared_in(type(self))]
            # In a class a step without events is an ordinary unit of work, for the others to call.
            routed = [one for one in methods if one.signature.is_routed]
            self._graph = Graph(self.name, [*routed, *self._free_steps], check=self._check)
        return self._graph

    def run(
        self,
        *,
        start_event: StartEvent | None = None,
        run_id: str | None = None,
        url: str | None = None,
        **fields: Any,
    ) -> Handler:
        """Start a run, and return its handler at once.

        The steps run in the calling event loop; without one, in a thread of the run's own.

        Args:
            start_event: what the run begins with, instead of `fields`.
            run_id: your own id; drawn at random by default.
            url: the log; by default `RUNSTREAM_URL`, else SQLite in the user's data directory.
            fields: the fields of the StartEvent (of the class that the entry step accepts).

        Raises:
            InvalidInput: the workflow cannot work, or the id or URL cannot be.
            pydantic.ValidationError: the fields don't fit the StartEvent.
        """
        graph = self.graph
        if start_event is None:
            start_event = graph.start_type(**fields)
        elif fields:
            raise InvalidInput("give the start_event or its fields, not both")
        elif not graph.route(start_event):
            raise InvalidInput(f"no step of {self.name!r} accepts a {type(start_event).__name__}")
        job = RoutedJob(
            graph,
            start_event,
            timeout=self.run_timeout,
            grace=self._cancel_grace,
            verbose=self._verbose,
        )
        return launch_in_loop(make_runner(job, self.name, run_id, url, start_event))


def _declared_in(workflow: type) -> list[Step[..., Any]]:
    """The steps of a class, in the order of declaration; a subclass's own take the place of others."""
    attributes: dict[str, object] = {}
    for owner in reversed(workflow.__mro__):
        attributes.update(vars(owner))
    return [
        cast("Step[..., Any]", attribute)
        for attribute in attributes.values()
        if isinstance(attribute, Step)
    ]
