"""Runs within runs: attaching to a run, and starting children of it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from embedded_logs import PATIENCE_S, closed_publishers, info, kinds, records, url
from runstream import (
    InvalidInput,
    RunEnded,
    attach,
    bind,
    publish,
    publisher_stats,
    start_run,
)
from runstream.errors import LogClosed

__all__ = ["closed_publishers", "url"]


def test_an_attachment_publishes_into_the_run_with_its_step(url: str) -> None:
    with start_run("w", url=url, run_id="r1"):
        publish({"n": 1})
    # (The other way round below; an ended run is closed.)
    with start_run("w", url=url, run_id="r2", parent=None):
        with attach("r2", url=url, step="train", attempt=2) as place:
            publish({"n": 2})
        publish({"n": 3})
    got = [record for record in records(url, "r2") if record.kind == "event"]
    assert [record.data["n"] for record in got] == [2, 3]
    assert (got[0].step, got[0].attempt, got[0].step_run_id) == ("train", 2, place.step_run_id)
    assert (got[1].step, got[1].attempt) == (None, None)


def test_leaving_an_attachment_waits_until_everything_is_stored(url: str) -> None:
    with start_run("w", url=url, run_id="r1"):
        before = publisher_stats().stored
        with attach("r1", url=url):
            for number in range(1000):
                publish({"n": number})
        assert publisher_stats().stored - before >= 1000


def test_who_publishes_after_the_attachment_was_left_hears_so(url: str) -> None:
    with start_run("w", url=url, run_id="r1"):
        with attach("r1", url=url):
            late = bind(publish)
        with pytest.raises(LogClosed, match="left"):
            late({"n": 1})


# --- children ------------------------------------------------------------------------------------


def test_a_run_started_in_a_run_is_its_child_and_ends_alone(url: str) -> None:
    with start_run("outer", url=url) as outer:
        with start_run("inner") as inner:
            publish({"n": 1})
        publish({"n": 2})
    got = [(record.run_id == inner.run_id, record.kind) for record in records(url, outer.run_id)]
    assert got == [
        (False, "run.started"),
        (True, "run.started"),
        (True, "event"),
        (True, "run.completed"),
        (False, "event"),
        (False, "run.completed"),
    ]
    assert info(url, inner.run_id).root_run_id == outer.run_id
    assert kinds(url, inner.run_id) == ["run.started", "event", "run.completed"]


def test_a_child_that_fails_does_not_end_its_parent(url: str) -> None:
    with start_run("outer", url=url) as outer:
        with pytest.raises(ValueError), start_run("inner") as inner:
            raise ValueError("no")
        publish({"n": 1})
    assert info(url, inner.run_id).status == "failed"
    assert info(url, outer.run_id).status == "completed"


def test_nothing_follows_a_childs_end(url: str) -> None:
    with start_run("outer", url=url):
        with start_run("inner") as inner:
            late = bind(publish)
        with pytest.raises(RunEnded, match=inner.run_id):
            late({"n": 1})
        publish({"n": 2})


def test_children_of_children_stay_in_the_roots_stream(url: str) -> None:
    with start_run("a", url=url) as a, start_run("b") as b, start_run("c") as c:
        publish({})
    assert (c.parent_run_id, b.parent_run_id) == (b.run_id, a.run_id)
    assert kinds(url, a.run_id) == [*["run.started"] * 3, "event", *["run.completed"] * 3]
    assert info(url, c.run_id).root_run_id == a.run_id


def test_a_child_of_its_own_wishes_has_a_producer_and_lease_of_its_own(url: str) -> None:
    with (
        start_run("outer", url=url) as outer,
        start_run("inner", producer="p1", lease=5.0) as inner,
    ):
        publish({"n": 1})
        lease = info(url, inner.run_id).lease
        assert lease is not None
        assert (lease.owner, lease.lease_s) == ("p1", 5.0)
    assert info(url, inner.run_id).root_run_id == outer.run_id
    assert kinds(url, inner.run_id) == ["run.started", "event", "run.completed"]
    assert kinds(url, outer.run_id)[-1] == "run.completed"


def test_without_a_parent_a_run_is_its_own_root(url: str) -> None:
    with start_run("outer", url=url) as outer, start_run("inner", url=url, parent=None) as inner:
        publish({"n": 1})
    assert inner.parent_run_id is None
    assert info(url, inner.run_id).root_run_id == inner.run_id
    assert kinds(url, outer.run_id) == ["run.started", "run.completed"]


def test_a_child_may_name_its_parent_from_anywhere(url: str) -> None:
    with start_run("outer", url=url, run_id="r1"):
        worker = threading.Thread(target=_child_of_r1, args=(url,))
        worker.start()
        worker.join(PATIENCE_S)
    assert kinds(url, "r1") == ["run.started", "run.started", "run.completed", "run.completed"]


def _child_of_r1(url: str) -> None:
    with start_run("inner", url=url, parent="r1"):
        pass


@pytest.mark.parametrize("taken", ["outer", "other"])
def test_a_child_cannot_take_the_id_of_a_run_that_is_no_child(url: str, taken: str) -> None:
    with (
        start_run("w", url=url, run_id="other", parent=None),
        start_run("w", url=url, run_id="outer", parent=None),
    ):
        with pytest.raises(InvalidInput, match="no child"), start_run("inner", run_id=taken):
            pass
        publish({})
    assert info(url, "outer").status == info(url, "other").status == "completed"


def test_the_same_log_spelt_differently_is_the_same_parent(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(sqlite_url.removeprefix("sqlite:"))
    monkeypatch.chdir(path.parent)
    outer = start_run("outer", url=f"sqlite://{path}")
    with outer, start_run("inner", url=f"sqlite:{path.name}") as inner:
        pass
    assert inner.parent_run_id == outer.run_id
