"""Leases as their observers see them: only the observer's own clock counts."""

from __future__ import annotations

import msgspec
import pytest

from runstream.lease import LeaseObserver, time_limit
from runstream.log import Lease, RunInfo, Status

LEASE = Lease("owner", epoch=1, counter=7, lease_s=10.0, grace_s=30.0)
INFO = RunInfo(
    run_id="run-1",
    root_run_id="run-1",
    parent_run_id=None,
    workflow="nightly",
    status="running",
    generation="g1",
    first_seq=1,
    last_seq=0,
    created=0,
    lease=LEASE,
)


def info(status: Status = "running", *, counter: int = 7, held: bool = True) -> RunInfo:
    lease = msgspec.structs.replace(LEASE, counter=counter) if held else None
    return msgspec.structs.replace(INFO, status=status, lease=lease)


def test_a_lease_lapses_when_its_counter_stood_still_for_its_time() -> None:
    observer = LeaseObserver()

    assert not observer.lapsed(info(), now=100.0)
    assert not observer.lapsed(info(), now=109.9)
    assert observer.lapsed(info(), now=110.0)


def test_a_renewal_begins_the_time_anew() -> None:
    observer = LeaseObserver()
    observer.lapsed(info(), now=100.0)

    assert not observer.lapsed(info(counter=8), now=109.0)
    assert not observer.lapsed(info(counter=8), now=118.0)
    assert observer.lapsed(info(counter=8), now=119.0)


def test_a_stalled_run_has_its_grace() -> None:
    observer = LeaseObserver()
    observer.lapsed(info("stalled"), now=0.0)

    assert not observer.lapsed(info("stalled"), now=29.9)
    assert observer.lapsed(info("stalled"), now=30.0)


def test_becoming_stalled_begins_the_time_anew() -> None:
    observer = LeaseObserver()
    observer.lapsed(info(), now=0.0)

    assert not observer.lapsed(info("stalled"), now=20.0)
    assert not observer.lapsed(info("stalled"), now=49.0)


@pytest.mark.parametrize("status", ["waiting", "completed"])
def test_a_parked_or_ended_run_never_lapses(status: Status) -> None:
    observer = LeaseObserver()
    observer.lapsed(info(status), now=0.0)

    assert time_limit(info(status)) is None
    assert not observer.lapsed(info(status), now=1e9)


def test_a_run_that_nobody_holds_never_lapses() -> None:
    observer = LeaseObserver()
    observer.lapsed(info(held=False), now=0.0)

    assert not observer.lapsed(info(held=False), now=1e9)
