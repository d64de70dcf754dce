"""The command line: one command a file. `main` is what `runstream` runs."""

from __future__ import annotations

import sys
from io import TextIOWrapper

import click

from .. import __version__
from .chat import chat
from .check import check
from .demo import demo
from .ls import ls
from .options import Commands
from .rm import rm
from .run import run
from .serve import serve
from .tail import tail
from .token import token
from .top import top

EXAMPLES = """\b
Begin here:
  runstream demo            a sample run, live in this terminal
  runstream tail latest     the newest run, live, from any other terminal
  runstream ls              the runs that are stored

More about each command: runstream tail --help
"""


@click.group(
    cls=Commands, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="runstream", message="%(prog)s %(version)s")
def runstream() -> None:
    """Follow running Python workflows: live, durable, in order, from any terminal."""


for command in (demo, run, tail, ls, rm, serve, top, token, chat, check):
    runstream.add_command(command)


def main() -> None:
    """Run the command line of this process; never returns."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that cannot show a character must not end a command.
            stream.reconfigure(errors="backslashreplace")
    runstream(prog_name="runstream")
