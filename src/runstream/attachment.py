"""Being inside a run that another process runs: `attach`, to add to it."""

from __future__ import annotations

import secrets

from .context import Outlet, Scope
from .errors import InvalidInput
from .events import check_name
from .membership import Membership
from .publisher import Publisher, new_producer_id
from .run import check_linger, check_overflow
from .settings import Overflow


class Attachment(Membership):
    """A place in a run that another process runs; made by `attach`."""

    def __init__(
        self,
        run_id: str,
        *,
        step: str | None,
        step_run_id: str | None,
        attempt: int | None,
        url: str | None,
        producer: str | None,
        overflow: Overflow | None,
        linger_s: float,
    ) -> None:
        super().__init__(run_id, url)
        if step is None and not (step_run_id is None and attempt is None):
            raise InvalidInput("a step_run_id and an attempt belong to a step: give its name, too")
        if attempt is not None and attempt < 1:
            raise InvalidInput(f"attempts count from 1, not {attempt}")
        if step is not None:
            step_run_id = step_run_id or secrets.token_hex(8)
            attempt = attempt or 1
        self.step = None if step is None else check_name(step, "step")
        self.step_run_id = None if step_run_id is None else check_name(step_run_id, "step_run_id")
        self.attempt = attempt
        self.last_number = 0
        self._producer = None if producer is None else check_name(producer, "producer id")
        self._overflow: Overflow | None = check_overflow(overflow)
        self._linger_s = check_linger(linger_s)

    async def _join(self, publisher: Publisher) -> None:
        producer = self._producer or new_producer_id()
        opened = await publisher.log.open(self.run_id, producer=producer)
        self.last_number = opened.number
        self._outlet = self._outbox = publisher.add_outbox(
            self.run_id,
            opened.info.root_run_id,
            producer_id=producer,
            opened=opened,
            overflow=self._overflow,
            linger_s=self._linger_s,
        )

    def _scope(self, outlet: Outlet) -> Scope:
        return Scope(outlet, self.run_id, self.step, self.step_run_id, self.attempt)


def attach(
    run_id: str,
    *,
    step: str | None = None,
    step_run_id: str | None = None,
    attempt: int | None = None,
    url: str | None = None,
    producer: str | None = None,
    overflow: Overflow | None = None,
    batch_interval: float = 0.0,
) -> Attachment:
    """Publish into a run from another process: `with attach(run_id, step="train"):` (or `async with`).

    Leaving the block waits until what was published is stored; the run goes on.

    Args:
        run_id: a run that is there and has not ended.
        step, step_run_id, attempt: what the records are attributed to.
        url, producer, overflow, batch_interval: as in `start_run`.

    Raises (on entering):
        RunNotFound, RunEnded: there is nothing to attach to.
    """
    return Attachment(
        run_id,
        step=step,
        step_run_id=step_run_id,
        attempt=attempt,
        url=url,
        producer=producer,
        overflow=overflow,
        linger_s=batch_interval,
    )
