"""`runstream run`: a workflow or pipeline in this process, followed live through its stream."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Generator
from contextlib import aclosing
from pathlib import Path
from types import FrameType
from typing import IO, Any, Final, cast

import click
from rich.text import Text

from ..connection import connect
from ..errors import RunNotFound, RunstreamError
from ..events import HumanResponseEvent, InputRequiredEvent, event_class
from ..handler import Handler
from ..invocation import Target, start_target
from ..record import Record
from ..run import new_run_id
from ..settings import read_settings
from ..streams import Streams
from .answers import Answers
from .exit_codes import INTERRUPTED, NOT_OK, USAGE, exit_code_of_run
from .options import Problem, debug_option, is_debugging, url_option
from .record_line import describe
from .run_views import JsonView, LiveView, PlainView, View
from .seen import Seen
from .target import answer_type, load_target, told
from .terminal import can_redraw, command_line, harmless, make_console

# How long leaving waits for the end of a run that nobody follows any more.
END_WAIT_S: Final = 10.0
# Ctrl-C pressed so often leaves even where the process no longer listens.
INTERRUPTS_MAX: Final = 3

EXAMPLES: Final = """\b
Examples:
  runstream run examples/haiku.py                     its only workflow
  runstream run flow.py:Report --input '{"year": 2026}'
  runstream run package.flows:report --input @year.json --timeout 60
  runstream run flow.py:Report --json                 one JSON object a line

\b
Exit codes: 0 the run completed; 1 it failed, was cancelled, timed out or was
lost; 2 usage: no such workflow, or an input that doesn't fit; 4 the log cannot
be used; 130 Ctrl-C.
"""


@click.command(epilog=EXAMPLES, short_help="Run a workflow, and watch it live.")
@click.argument("target", metavar="FILE_OR_MODULE[:NAME]")
@click.option(
    "--input",
    "given",
    default="{}",
    metavar="JSON",
    help="The fields of the start event, or the arguments of the pipeline, as a JSON object; "
    "@FILE reads it from a file.",
)
@click.option("--run-id", metavar="ID", help="Your own id for the run. Default: a random one.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="S",
    help="End the run as timed out after S seconds.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line, for programs."
)
@url_option
@debug_option
@click.pass_context
def run(
    context: click.Context,
    target: str,
    given: str,
    run_id: str | None,
    timeout: float | None,
    as_json: bool,
    url: str | None,
) -> None:
    """Run a workflow: a Workflow class or instance, or a @pipeline function.

    You may omit NAME if the file or module has only one. The terminal follows the run through its log, as any
    other terminal could. Answer questions (InputRequiredEvent) at the prompt, or with lines of standard
    input. Ctrl-C cancels the run; a second Ctrl-C quits at once.
    """
    fields = _read_input(given)
    out = sys.stdout
    with _prints_beside(as_json):
        workflow = load_target(target)
        if timeout is not None:
            workflow.run_timeout = timeout
        running = Running(
            workflow,
            fields,
            run_id=run_id,
            url=url or read_settings().url,
            out=out,
            as_json=as_json,
        )
        with running.interruptible():
            asyncio.run(running.go())
        running.close(debug=is_debugging(context))
    context.exit(running.exit_code())


def _read_input(text: str) -> dict[str, Any]:
    place = "--input"
    if text.startswith("@"):
        place = text[1:]
        try:
            text = Path(place).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            raise Problem(f"the input cannot be read from {place!r}: {why}", USAGE) from error
    try:
        fields: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Problem(f"{place} is not JSON: {error}", USAGE) from error
    if not isinstance(fields, dict):
        raise Problem(f'{place} must be a JSON object, such as {{"topic": "rain"}}', USAGE)
    return cast("dict[str, Any]", fields)


def _prints_beside(as_json: bool) -> contextlib.AbstractContextManager[Any]:
    """With --json, what the workflow prints must not come between the envelopes."""
    return contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()


class Running:
    """One run on its way from its target to its end."""

    def __init__(
        self,
        target: Target,
        fields: dict[str, Any],
        *,
        run_id: str | None,
        url: str,
        out: IO[str],
        as_json: bool,
    ) -> None:
        self._target = target
        self._fields = fields
        self._run_id = run_id or new_run_id()
        self._url = url
        self._out = out
        self._as_json = as_json
        self._console = make_console()
        self._view: View | None = None
        self._handler: Handler | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._questions: asyncio.Queue[Record] = asyncio.Queue()
        self._interrupts = 0
        self._end: Record | None = None
        self._error: BaseException | None = None
        # Tasks that ask for the run's end; a loop itself holds on to tasks only weakly.
        self._asked: set[asyncio.Task[None]] = set()

    async def go(self) -> None:
        """Start the run, and follow it to its end."""
        self._loop = asyncio.get_running_loop()
        async with connect(self._url) as streams:
            from_seq = await self._first_new(streams)
            # In a thread without a loop, so that the run gets a loop of its own: a step that blocks it
            # must not block this one.
            handler = self._handler = await asyncio.to_thread(
                start_target, self._target, self._fields, self._run_id, self._url
            )
            if self._interrupts:
                self._cancel("Ctrl-C")
            self._view = self._make_view()
            others = [
                asyncio.create_task(self._view.animate()),
                asyncio.create_task(self._answer(streams, self._view)),
            ]
            try:
                await self._follow(handler, from_seq, self._view, others)
            except BaseException:
                await self._abandon(handler)
                raise
            finally:
                for other in others:
                    other.cancel()
                await asyncio.gather(*others, return_exceptions=True)
                self._view.close()
            self._error = await _error_of(handler)

    def close(self, *, debug: bool) -> None:
        """Say how it ended."""
        end, view = self._end, self._view
        if end is None or view is None:
            return
        if end.kind == "run.completed":
            if isinstance(view, LiveView):
                self._console.print()
            view.result(end)
        else:
            if debug and self._error is not None and end.kind == "run.failed":
                sys.excepthook(type(self._error), self._error, self._error.__traceback__)
            click.echo(f"runstream: {harmless(self._told(end))}", err=True)
        if isinstance(view, LiveView) and not self._url.startswith("memory:"):
            again = command_line("tail", self._run_id, url=self._url)
            said = Text.assemble(("See it again:  " + again, "dim"))
            self._console.print()
            self._console.print(said, soft_wrap=True)

    def exit_code(self) -> int:
        if self._interrupts and self._end is not None and self._end.kind == "run.cancelled":
            return INTERRUPTED
        return exit_code_of_run(self._end) if self._end is not None else NOT_OK

    @contextlib.contextmanager
    def interruptible(self) -> Generator[None]:
        """While the block runs, Ctrl-C cancels the run, and leaves when it is pressed again."""

        def interrupted(_number: int, _frame: FrameType | None) -> None:
            self._interrupts += 1
            if self._interrupts >= INTERRUPTS_MAX or self._loop is None:
                os._exit(INTERRUPTED)
            self._loop.call_soon_threadsafe(self._interrupt)

        before = signal.signal(signal.SIGINT, interrupted)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    # --- parts of the way ------------------------------------------------------------------------

    async def _first_new(self, streams: Streams) -> int | None:
        """Where the records of this start begin, in a run that may be there already."""
        try:
            info = await streams.info(self._run_id)
        except RunNotFound:
            return None
        if info.has_ended:
            see = command_line("tail", self._run_id, url=self._url)
            raise Problem(
                f"run {self._run_id!r} is there already, and has ended; choose another --run-id, "
                f"or see it: {see}",
                USAGE,
            )
        return info.last_seq + 1

    def _make_view(self) -> View:
        if self._as_json:
            return JsonView(self._out)
        if can_redraw(self._console):
            title = f"{self._target.name}  run {self._run_id}"
            return LiveView(self._console, Seen(self._run_id), title)
        return PlainView(self._out, self._console, self._run_id)

    async def _follow(
        self, handler: Handler, from_seq: int | None, view: View, others: list[asyncio.Task[None]]
    ) -> None:
        following = asyncio.ensure_future(self._read(handler, from_seq, view))
        try:
            # Whoever of the others ends early has failed, and the run can no longer be shown.
            waiting = {following, *others}
            while not following.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            following.cancel()

    async def _read(self, handler: Handler, from_seq: int | None, view: View) -> None:
        async with aclosing(handler.subscribe(from_seq=from_seq).pages()) as pages:
            async for page in pages:
                view.show(page)
                for record in page:
                    if issubclass(event_class(record.kind), InputRequiredEvent):
                        self._questions.put_nowait(record)
                    if record.is_terminal and record.run_id == self._run_id:
                        self._end = record

    async def _answer(self, streams: Streams, view: View) -> None:
        """Ask the person, one question after the other, and send the answers into the run."""
        answers = Answers()
        while True:
            question = await self._questions.get()
            fields = _fields_of(question)
            asked = harmless(str(fields.pop("prefix", "") or "")) or describe(question)
            view.ask(asked)
            line = await answers.line()
            if line is None:
                self._cancel(f"nobody answered {asked!r}: the standard input has ended")
                return
            view.answered(line)
            # What else the question says is said back, so that the step knows which one this answers.
            answer = self._answer_class(question)(**{**fields, "response": line})
            with contextlib.suppress(RunstreamError):  # it has ended meanwhile
                await streams.handler(question.run_id).send_event(answer)

    def _answer_class(self, question: Record) -> type[HumanResponseEvent]:
        own = question.run_id == self._run_id
        return answer_type(self._target) if own else HumanResponseEvent

    def _interrupt(self) -> None:
        if self._interrupts > 1:
            self._leave_at_once()
        if self._handler is not None:
            self._cancel("Ctrl-C")
        if self._view is not None:
            self._view.notice("cancelling the run; Ctrl-C again leaves at once")

    def _cancel(self, reason: str) -> None:
        async def cancel(handler: Handler) -> None:
            with contextlib.suppress(RunstreamError):  # it has ended already
                await handler.cancel_run(reason)

        if self._handler is not None:
            task = asyncio.ensure_future(cancel(self._handler))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)

    def _leave_at_once(self) -> None:
        if self._view is not None:
            self._view.close()
        click.echo(
            f"runstream: left at once; whoever follows run {self._run_id} sees it as lost", err=True
        )
        sys.stdout.flush()
        os._exit(INTERRUPTED)

    async def _abandon(self, handler: Handler) -> None:
        """It can no longer be shown: nobody would know that it still runs."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(END_WAIT_S):
                await handler.cancel_run("who started it could no longer follow it")
                await _error_of(handler)

    def _told(self, end: Record) -> str:
        data = _fields_of(end)
        match end.kind:
            case "run.failed":
                step = data.get("step_name")
                where = f" in step {step!r}" if step else ""
                why = describe(end) if self._error is None else told(self._error)
                return f"the run failed{where}: {why}"
            case "run.timed_out":
                active = ", ".join(map(str, data.get("active_steps") or ()))
                at = f", at work on {active}" if active else ""
                return f"the run exceeded its {data.get('timeout'):g} s{at}"
            case "run.cancelled":
                return f"the run was cancelled: {data.get('reason') or 'no reason was given'}"
            case _:
                return f"the run was lost: {data.get('reason')}"


def _fields_of(record: Record) -> dict[str, Any]:
    data: object = record.data
    return dict(cast("dict[str, Any]", data)) if isinstance(data, dict) else {}


async def _error_of(handler: Handler) -> BaseException | None:
    try:
        await handler.result()
    except Exception as error:  # noqa: BLE001 - a step's own, whatever it is
        return error
    return None
