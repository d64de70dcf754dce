"""Where the records of a child run go that runs in its parent's process: into the parent's outbox."""

from __future__ import annotations

from concurrent.futures import Future

from .context import Outlet, Slot
from .errors import RunEnded, RunstreamError
from .record import Draft


class ChildOutlet:
    """The parent's outlet, with an end of its own: nothing follows the child's terminal record."""

    def __init__(self, outlet: Outlet, run_id: str) -> None:
        self.run_id = run_id
        self.url = outlet.url
        self.root_run_id = outlet.root_run_id
        self.size_bytes_max = outlet.size_bytes_max
        self._outlet = outlet
        self._ended: RunEnded | None = None

    @property
    def closed_by(self) -> RunstreamError | None:
        return self._ended or self._outlet.closed_by

    def put(self, draft: Draft, priority: bool = False) -> None:
        self._check_running()
        self._outlet.put(draft, priority)

    def put_always(self, draft: Draft) -> None:
        self._check_running()
        if draft.is_terminal and draft.run_id == self.run_id:
            self._ended = RunEnded(f"run {self.run_id!r} has ended")
        self._outlet.put_always(draft)

    def offer(self, draft: Draft) -> bool:
        self._check_running()
        return self._outlet.offer(draft)

    def put_latest(self, draft: Draft) -> Slot:
        self._check_running()
        return self._outlet.put_latest(draft)

    def ticket(self) -> Future[bool]:
        return self._outlet.ticket()

    async def wait_room(self) -> None:
        await self._outlet.wait_room()

    def _check_running(self) -> None:
        if self._ended is not None:
            # Without the traceback of the last time, which would only grow.
            raise self._ended.with_traceback(None)
