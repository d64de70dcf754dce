"""Retries: how often a failed attempt is made again, after which pause, and on which errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

from .errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Retry:
    """A step's retries: `@step(retry=Retry(attempts=3, delay=1.0))`.

    The pause before attempt n + 1 is `delay * backoff ** (n - 1)` seconds, at most `max_delay`; with
    `jitter` between half of that and all of it, so that what failed together isn't retried together.

    Raises:
        InvalidInput: a number is out of range, or `on` does not name exceptions.
    """

    attempts: int = 3
    delay: float = 1.0
    backoff: float = 2.0
    max_delay: float = 60.0
    jitter: bool = True
    on: type[BaseException] | tuple[type[BaseException], ...] = Exception

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise InvalidInput(f"a step is attempted at least once, not {self.attempts} times")
        for name, seconds in (("delay", self.delay), ("max_delay", self.max_delay)):
            if not 0 <= seconds < math.inf:
                raise InvalidInput(f"{name} is a number of seconds from 0, not {seconds}")
        if not 1 <= self.backoff < math.inf:
            raise InvalidInput(f"backoff is a factor from 1, not {self.backoff}")
        named: object = self.on
        for kind in cast("tuple[object, ...]", named if isinstance(named, tuple) else (named,)):
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise InvalidInput(f"`on` names exceptions, not {kind!r}")

    def covers(self, error: type[BaseException]) -> bool:
        """Whether an error of that type is worth another attempt."""
        return issubclass(error, self.on)

    def pause(self, attempt: int, noise: float) -> float | None:
        """Seconds between the failure of `attempt` (from 1) and the next one; None: it was the last.

        `noise` is a random number from 0 to 1, drawn by the caller.
        """
        if attempt >= self.attempts:
            return None
        try:
            pause = min(self.delay * self.backoff ** (attempt - 1), self.max_delay)
        except OverflowError:
            pause = self.max_delay
        return pause * (0.5 + noise / 2) if self.jitter else pause
