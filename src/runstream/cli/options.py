"""What all commands share: `--url`, `--debug`, and errors as one line that says what to do."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

import click

from ..errors import InvalidInput, RunstreamError
from ..time_span import parse_time_span
from .exit_codes import INTERRUPTED, READER_GONE, exit_code_of_error
from .terminal import harmless

F = TypeVar("F", bound=Callable[..., Any])

_DEBUG: Final = "runstream.debug"

url_option = click.option(
    "--url",
    metavar="URL",
    help="The log, such as sqlite:events.db. Default: RUNSTREAM_URL, or else the SQLite file in your "
    "user data folder, which programs also use by default.",
)

# For what only a server can answer.
server_option = click.option(
    "--url",
    metavar="URL",
    help="The server, such as http://127.0.0.1:4747. Default: RUNSTREAM_URL.",
)


def in_seconds(
    _context: click.Context, parameter: click.Parameter, value: str | None
) -> float | None:
    """The callback of an option that takes a time: 90s, 10m, 12h, 7d."""
    try:
        return None if value is None else parse_time_span(value)
    except InvalidInput as error:
        raise click.BadParameter(str(error), param=parameter) from None


def debug_option(command: F) -> F:
    """Add `--debug`."""
    return click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_note_debug,
        help="Show the traceback of an error.",
    )(command)


def _note_debug(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context.meta[_DEBUG] = value


def is_debugging(context: click.Context) -> bool:
    """Whether `--debug` was given."""
    return bool(context.meta.get(_DEBUG))


class Problem(Exception):
    """Ends a command with this message, as one line on stderr, and with an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Commands(click.Group):
    """A group whose commands end with our exit codes, whoever calls them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order in which a newcomer meets them, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except Problem as problem:
            _explain(ctx, problem, problem.exit_code)
        except RunstreamError as error:
            _explain(ctx, error, exit_code_of_error(error))
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            # Whoever read our output has enough (`| head`); the flush at exit must not complain either.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(READER_GONE)


def _explain(context: click.Context, error: Exception, exit_code: int) -> NoReturn:
    if is_debugging(context):
        traceback.print_exception(error)
    click.echo(f"runstream: {harmless(str(error))}", err=True)
    context.exit(exit_code)
