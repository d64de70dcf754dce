"""Exit codes: what a script can tell from how a command ended (docs/cli.md lists them)."""

from __future__ import annotations

from typing import Final

from ..errors import ExtraMissing, InvalidInput, InvalidPosition, RunNotFound, RunstreamError
from ..record import Record

OK: Final = 0
# The run that was followed did not complete, or a log broke a promise.
NOT_OK: Final = 1
USAGE: Final = 2
RUN_NOT_FOUND: Final = 3
LOG_UNUSABLE: Final = 4
# As a shell reports a process that Ctrl-C, or the end of its reader, has ended: 128 + the signal.
INTERRUPTED: Final = 130
READER_GONE: Final = 141


def exit_code_of_error(error: RunstreamError) -> int:
    """The code for an error that ended a command."""
    match error:
        case InvalidInput() | InvalidPosition() | ExtraMissing():
            return USAGE
        case RunNotFound():
            return RUN_NOT_FOUND
        case _:
            return LOG_UNUSABLE


def exit_code_of_run(end: Record | None) -> int:
    """The code for a run that ended with the record `end` (None: it has not ended yet)."""
    return OK if end is None or end.kind == "run.completed" else NOT_OK
