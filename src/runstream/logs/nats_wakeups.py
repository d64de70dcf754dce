"""Wake-ups through NATS: not stored, only heard by whoever listens now.

A wake-up may be lost with its sender; waiters look by themselves now and then.
"""

from __future__ import annotations

import time
from typing import Any, Final

from nats.aio.msg import Msg

from ..bell import Bell
from .nats_line import Line
from .nats_subjects import Subjects

# Nobody has waited for a run for this time: its wake-ups are not listened to any more.
QUIET_S: Final = 60.0


class Wakeups:
    """Rings the bell when another process says that a run has something new. In one loop only."""

    def __init__(self, line: Line, subjects: Subjects, bell: Bell) -> None:
        self._line, self._subjects, self._bell = line, subjects, bell
        # By run: the subscription, and when somebody last waited.
        self._heard: dict[str, tuple[Any, float]] = {}

    async def tell(self, run_id: str) -> None:
        """Wake whoever waits for the run, in every process."""
        await self._line.tell(self._subjects.news(run_id), b"")

    async def hear(self, run_id: str) -> None:
        """Listen from now on. Raises LogUnavailable."""
        now = time.monotonic()
        known = self._heard.get(run_id)
        if known is None:
            await self._forget_quiet(now)

            async def heard(_message: Msg) -> None:
                self._bell.ring([run_id])

            known = (await self._line.listen(self._subjects.news(run_id), heard), now)
        self._heard[run_id] = (known[0], now)

    async def _forget_quiet(self, now: float) -> None:
        for run_id, (subscription, last) in list(self._heard.items()):
            if now - last > QUIET_S:
                del self._heard[run_id]
                await subscription.unsubscribe()
