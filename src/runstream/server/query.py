"""Query parameters: each known, given once, and of its form. A misspelt one is refused, not ignored."""

from __future__ import annotations

import math
from urllib.parse import parse_qsl

from starlette.types import Scope

from ..errors import InvalidInput

# Who asks may say so in the address, on every route.
ACCESS_TOKEN = "access_token"
# As long as the largest seq that a cursor can hold.
_DIGITS_MAX = 18


class Query:
    """The query of one request.

    Raises (also when made):
        InvalidInput: an unknown parameter, one given twice, or a value of another form.
    """

    def __init__(self, scope: Scope, *known: str) -> None:
        self._values: dict[str, str] = {}
        text = scope["query_string"].decode("latin-1")
        for name, value in parse_qsl(text, keep_blank_values=True):
            if name == ACCESS_TOKEN:
                continue
            if name not in known:
                raise InvalidInput(
                    f"unknown parameter {name!r}; this route has {', '.join(known) or 'none'}"
                )
            if name in self._values:
                raise InvalidInput(f"{name}= is given more than once")
            self._values[name] = value

    def text(self, name: str) -> str | None:
        return self._values.get(name)

    def whole(self, name: str) -> int | None:
        """A whole number from 0."""
        value = self._values.get(name)
        if value is None:
            return None
        if not value.isascii() or not value.isdigit() or len(value) > _DIGITS_MAX:
            raise InvalidInput(f"{name} is a whole number from 0, not {value!r}")
        return int(value)

    def seconds(self, name: str) -> float | None:
        """A time from 0."""
        value = self._values.get(name)
        if value is None:
            return None
        try:
            seconds = float(value)
        except ValueError:
            seconds = -1.0
        if not 0 <= seconds < math.inf:
            raise InvalidInput(f"{name} is a time in seconds from 0, not {value!r}")
        return seconds
