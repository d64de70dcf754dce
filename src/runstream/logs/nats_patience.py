"""How long a call waits for NATS: a few seconds longer than the server answers anybody.

Among a thousand callers each waits for its turn, and a slow server is not a silent one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Final

from ..errors import LogUnavailable

# An answer takes milliseconds; a server that is being replaced takes a few seconds.
ANSWER_S_MAX: Final = 5.0
# A call in all. (In a cluster one stream may be without its majority while others are answered.)
CALL_S_MAX: Final = 30.0


class Patience:
    """With one server. In one event loop only."""

    def __init__(self, shown: str) -> None:
        self._shown = shown
        self._heard_at = 0.0

    def heard(self) -> None:
        """The server has answered somebody."""
        self._heard_at = asyncio.get_running_loop().time()

    @asynccontextmanager
    async def in_time(self) -> AsyncGenerator[Callable[[], None]]:
        """Bound a call, which may ask several questions; what this yields has its time begin anew.

        Raises:
            LogUnavailable: for `ANSWER_S_MAX` nobody was answered, or the call has taken `CALL_S_MAX`.
        """
        loop = asyncio.get_running_loop()
        begun_at = loop.time()
        timer: asyncio.TimerHandle

        def begin_anew() -> None:
            nonlocal begun_at
            begun_at = loop.time()

        def look() -> None:
            nonlocal timer
            silent_at = max(begun_at, self._heard_at) + ANSWER_S_MAX
            end_at = min(silent_at, begun_at + CALL_S_MAX)
            if end_at > loop.time():
                timer = loop.call_at(end_at, look)
            else:
                limit.reschedule(end_at)

        timer = loop.call_at(begun_at + ANSWER_S_MAX, look)
        try:
            async with asyncio.timeout(None) as limit:
                yield begin_anew
        except TimeoutError:
            raise self.over() from None
        finally:
            timer.cancel()

    def over(self) -> LogUnavailable:
        """The error for a call that got no answer in its time."""
        return LogUnavailable(f"NATS at {self._shown} does not answer")
