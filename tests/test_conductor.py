"""The conductor: what several threads may do to it at once."""

from __future__ import annotations

import sys
import threading
from collections.abc import Generator
from concurrent.futures import Future

import pytest

from runstream.conductor import SUBMITTED_MIN, Conductor
from runstream.portal import Portal
from runstream.run_state import Plan
from runstream.step_future import StepFuture
from small_outbox import outbox

THREADS, EACH = 4, 3000


@pytest.fixture
def conductor() -> Generator[Conductor]:
    portal = Portal("test")
    yield Conductor(Plan(), run_id="root", outlet=outbox(), portal=portal)
    portal.close()


@pytest.fixture
def impatient() -> Generator[None]:
    """Threads are interrupted as often as can be."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("impatient")
def test_steps_that_are_submitted_in_many_threads_are_all_remembered(conductor: Conductor) -> None:
    def submit() -> None:
        for _ in range(EACH):
            conductor.keep(StepFuture[None](Future()))

    threads = [threading.Thread(target=submit) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(conductor.unasked()) == THREADS * EACH


def test_steps_that_are_over_and_were_asked_are_forgotten(conductor: Conductor) -> None:
    for _ in range(10 * SUBMITTED_MIN):
        future: Future[None] = Future()
        conductor.keep(handed := StepFuture[None](future))
        future.set_result(None)
        handed.result()
    assert len(conductor._submitted) <= SUBMITTED_MIN  # pyright: ignore[reportPrivateUsage] - what it holds is the point
