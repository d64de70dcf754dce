"""The terminal: its colours and width, text that cannot harm it, and how people call us in it."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from rich.console import Console

from ..settings import default_url

# Control characters (a payload may hold escape sequences), and those that turn the order of text.
# What a URL says before its host, and passwords among its options.
_SECRETS = re.compile(r"(?<=://)[^/?#]*@|(?<=[?&])(?:ssl)?password=[^&]*")
_HARMFUL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
# Wider than any table of ours: names have limits.
WIDTH_FOR_PROGRAMS: Final = 10_000


def make_console(*, stderr: bool = False) -> Console:
    """A console that prints what it is given: no markup, and nothing wrapped where a program reads it."""
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not is_watched(console):
        console.width = WIDTH_FOR_PROGRAMS
    return console


def is_watched(console: Console) -> bool:
    """Whether a person sees this as it comes. (Colours may also be forced into a file.)"""
    return console.file.isatty()


def can_redraw(console: Console) -> bool:
    """Whether what was shown can be changed: a person watches, on more than a teletype."""
    return is_watched(console) and not console.is_dumb_terminal


def shows_colors(console: Console) -> bool:
    """Whether colours are wanted: a terminal, and no `NO_COLOR`."""
    return console.color_system is not None and not console.no_color


def harmless(text: str) -> str:
    """The text with control characters written out, so that it can neither move nor colour anything."""
    return _HARMFUL.sub(lambda match: _SHORT.get(match[0]) or f"\\u{ord(match[0]):04x}", text)


def shown_url(url: str) -> str:
    """A URL as anybody may see it: a terminal is looked at over shoulders, and its output is kept."""
    return _SECRETS.sub(lambda found: "***@" if found[0].endswith("@") else "password=***", url)


def command_line(*words: str, url: str | None = None) -> str:
    """A `runstream` command as it can be pasted into another terminal in this folder (but for a password
    in the URL, which is never shown).
    """
    where = [] if url is None or url == default_url() else ["--url", shown_url(url)]
    return " ".join([_program(), *map(shlex.quote, [*words, *where])])


def python_program() -> str:
    """The interpreter that has this package, as short as it can be typed here."""
    return _path_to_type(Path(sys.executable))


def is_on_path() -> bool:
    """Whether plain `runstream` runs this installation."""
    return _program() == "runstream"


def _program() -> str:
    started = Path(sys.argv[0])
    if started.name == "__main__.py":
        return f"{python_program()} -m runstream"
    found = shutil.which("runstream")
    if started.name != "runstream" or (found and Path(found).samefile(started)):
        return "runstream"
    return _path_to_type(started)


def _path_to_type(path: Path) -> str:
    path = path.absolute()
    here = Path.cwd()
    return shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
