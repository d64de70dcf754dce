"""An awaitable that was begun before there was anything to wait for."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any


class Remainder:
    """What is left of an awaitable that was begun elsewhere and has to wait."""

    __slots__ = ("_first", "_steps")

    def __init__(self, first: Any, steps: Generator[Any, Any, None]) -> None:
        self._first = first
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, None]:
        yield self._first
        yield from self._steps
