"""What the tiny model says: its answers, token by token, and the words that ask for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Script:
    """What the model answers when the newest cue in the prompt is `cue` (None: when there is no cue).

    A cue is a word of small ASCII letters, or a tag of the template. Each piece is one token; bytes may be
    part of a character. An endless script begins again until the request's own limit.
    """

    cue: str | None
    pieces: tuple[str | bytes, ...]
    endless: bool = False


SCRIPTS: Final = (
    Script(None, ("Hello", " there", ",", " I", " am", " a", " tiny", " model", ".")),
    Script(
        "joke",
        ("Why", " did", " the token", " cross", " the", " stream", "?", " To", " be", " next", "!"),
    ),
    Script(
        "think",
        (
            *("<think>", "\nLet", " us", " reason", " slowly", ".\n", "</think>"),
            *("\n\nThe", " answer", " follows", " from", " that", "..."),
        ),
    ),
    Script(
        "weather",
        (
            *("<tool_call>", '{"name":', ' "get_weather",', ' "arguments":'),
            *(' {"city":', ' "Paris"', "}}", "</tool_call>"),
        ),
    ),
    Script("<tool_response>", ("It", " is", " sunny", " in", " Paris", " today", " \u2600.")),
    Script(
        "emoji",
        ("Smile", b" \xf0\x9f", b"\x98", b"\x80", " caf", b"\xc3", b"\xa9", " done"),
    ),
    Script("count", ("tick", " tock "), endless=True),
)
