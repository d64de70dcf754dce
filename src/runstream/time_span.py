"""Spans of time as people write them: `90s`, `30m`, `12h`, `7d`."""

from __future__ import annotations

import re
from typing import Final

from .errors import InvalidInput

_SPAN: Final = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)
_SECONDS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_time_span(text: str) -> float:
    """The span in seconds. Raises InvalidInput for any other text."""
    found = _SPAN.fullmatch(text)
    if found is None:
        raise InvalidInput(f"a time is like 90s, 30m, 12h or 7d, not {text!r}")
    return int(found[1]) * _SECONDS[found[2]]
