"""Runs of a Redis log: opened, claimed, renewed, and taken for lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from ..admission import (
    LEASE_LAPSED,
    PARENT_ENDED,
    cannot_begin_again,
    check_owner,
    lost_draft,
    no_such_run,
    stalled_draft,
)
from ..errors import LeaseHeld, RunEnded
from ..log import Lease, LeaseClaim, Opened, RunInfo
from .redis_index import Index
from .redis_keys import Place, around_run_id, draft_text, lease_text, lease_times, run_info
from .redis_scripts import EXPIRE, LEASE, OPEN, POINT, UNPOINT
from .redis_streams import Streams, new_token


class Runs:
    """All in one event loop."""

    def __init__(self, streams: Streams, index: Index) -> None:
        self._streams = streams
        self._keys = streams.keys
        self._index = index

    async def open(
        self,
        run_id: str,
        producer: str | None,
        workflow: str | None,
        parent: str | None,
        claim: LeaseClaim | None,
    ) -> Opened:
        """As the contract has it; the arguments have been checked."""
        times = lease_times(claim.lease_s, claim.grace_s) if claim else ""
        create, under = workflow or "", ""
        registering: Coroutine[Any, Any, None] | None = None
        if workflow is not None and parent is None:
            registering = self._index.register(run_id, run_id, workflow)
        elif workflow is not None and parent is not None:
            place = await self._place_child(run_id, parent, workflow)
            create, under = (place.workflow, place.parent) if place else ("", "")
        args = (producer or "", create, under, times, new_token(), self._keys.channel(run_id))
        opening = self._streams.call(OPEN, run_id, lambda _: args)
        if registering is not None and not self._streams.nodes.is_cluster:
            # To one server they go together, in this order.
            _, (root, answer) = await asyncio.gather(registering, opening)
        else:
            if registering is not None:
                await registering
            root, answer = await opening
        match answer:
            case [b"ok", epoch, number, created, *fields]:
                info = run_info(run_id, root, fields)
                return Opened(info, int(epoch), int(number), created=bool(created))
            case [b"ended", status]:
                raise cannot_begin_again(run_id, status.decode())
            case [b"held", owner]:
                raise LeaseHeld(f"run {run_id!r} is being run by {owner.decode()!r}")
            case [b"parent ended", status]:
                await self._unplace(run_id, root, under, create)
                raise RunEnded(f"the parent run {under!r} has ended ({status.decode()})")
            case _:
                await self._unplace(run_id, root, under, create)
                raise no_such_run(under)

    async def _place_child(self, run_id: str, parent: str, workflow: str) -> Place | None:
        """Where the child is to be created, as whoever came first has it; None: it is there already.

        Two slots cannot change in one step. So a child is first pointed at, which is its opening, and
        then created in its root's stream by whoever comes next.
        """
        place = await self._streams.place(run_id)
        if place is None:
            if await self._streams.find_at(run_id, run_id) is not None:
                return None
            info = await self._streams.get(parent)
            if info.has_ended:
                raise RunEnded(f"the parent run {parent!r} has ended ({info.status})")
            place = Place(info.root_run_id, parent, workflow)
            await self._index.register(run_id, place.root, workflow)
            keys = [self._keys.run(run_id), self._keys.pointer(run_id)]
            answer = await self._streams.run_script(POINT, keys, str(place))
            if answer[0] == b"root":
                return None
            place = Place.parse(answer[1])
        self._streams.learn(run_id, place.root)
        return place

    async def _unplace(self, run_id: str, root: str, parent: str, workflow: str) -> None:
        """A child that could not be created is nowhere."""
        place = Place(root, parent, workflow)
        await self._streams.run_script(UNPOINT, [self._keys.pointer(run_id)], str(place))

    async def renew(self, run_id: str, owner: str, epoch: int) -> None:
        await self._change_lease(run_id, owner, epoch, "renew")

    async def release(self, run_id: str, owner: str, epoch: int) -> None:
        await self._change_lease(run_id, owner, epoch, "release")

    async def _change_lease(self, run_id: str, owner: str, epoch: int, what: str) -> None:
        _, answer = await self._streams.call(LEASE, run_id, lambda _: (owner, epoch, what))
        if answer[0] != b"ok":
            check_owner(None, run_id, owner, epoch)

    async def expire(self, run_id: str, lease: Lease) -> tuple[RunInfo, Sequence[bytes]]:
        """What is known of the run then, and who ended (as the script tells it)."""
        stalled = draft_text(stalled_draft(run_id, lease.grace_s)) if lease.grace_s > 0 else b""
        lost = draft_text(lost_draft(run_id, LEASE_LAPSED))
        around = around_run_id(lost_draft(run_id, PARENT_ENDED))
        args = (lease_text(lease), stalled, lost, *around)
        root, answer = await self._streams.call(EXPIRE, run_id, lambda _: args)
        return run_info(run_id, root, answer[1:7]), answer[7:]
