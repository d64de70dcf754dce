"""From wherever its stream is read, a task's fold is exactly the live state, or nothing yet."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from held_outbox import ORIGIN, inside, make_outbox, taken
from json_states import canonical, edit_inside, keys, states
from runstream import Task, connect, process, publish, start_run, task
from runstream.fold import TaskFold, TaskState
from runstream.patch import Json
from runstream.record import Draft, Record
from runstream.settings import Overflow
from runstream.streams import Streams

FULL = ("task.started", "task.snapshot", "task.completed")


@pytest.fixture(autouse=True)
def _no_publisher_left() -> Generator[None]:
    yield
    process.close_publishers()


# --- random edits --------------------------------------------------------------------------------

fields = st.dictionaries(keys, states, max_size=4)
start_states = st.fixed_dictionaries(
    {"text": st.text(max_size=4), "items": st.lists(st.text(max_size=3), max_size=3)}
).flatmap(lambda state: fields.map(lambda more: {**more, **state}))

# What one of the calls of a test does: a name and what it needs.
Edit = tuple[str, Any]
edits = st.lists(
    st.one_of(
        st.tuples(st.just("update"), fields),
        st.tuples(st.just("replace"), fields),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("rename"), keys),
        st.tuples(st.just("append"), states),
        st.tuples(st.just("append_text"), st.text(max_size=5)),
        st.tuples(st.just("grow"), st.text(max_size=5)),
        st.tuples(st.just("change in place"), st.integers(1, 3)),
        st.tuples(
            st.just("set_lookalike"), st.sampled_from([1, True, 1.0, 0, False, -0.0, None, ""])
        ),
    ),
    min_size=2,
    max_size=20,
)


@dataclass
class Live:
    """A task, and every state that it had, as JSON: the place in `states` is the version."""

    task: Task[dict[str, Any]]
    states: list[bytes] = field(default_factory=list[bytes])

    def look(self) -> None:
        now = canonical(self.task.state)
        if not self.states or self.states[-1] != now:
            self.states.append(now)

    def make(self, edit: Edit, draw: st.DrawFn) -> None:
        name, value = edit
        state = self.task.state
        if name == "change in place":
            # Through lists and dicts that somebody else holds, too; the next update finds it.
            for _ in range(value):
                edit_inside(cast("Json", [*state.values()]), draw)
            value = {}
            name = "update"
        before = canonical(state)
        getattr(self, name)(value)
        assert canonical(state) == before, "a state that was read has changed"
        self.look()

    def update(self, updates: dict[str, Any]) -> None:
        self.task.update_state(updates)

    def replace(self, state: dict[str, Any]) -> None:
        self.task.set_state(state)

    def delete(self, place: int) -> None:
        state = self.task.state
        left = [key for number, key in enumerate(state) if number != place]
        self.task.set_state({key: state[key] for key in left})

    def rename(self, key: str) -> None:
        state = dict(self.task.state)
        if state:
            state[key] = state.pop(next(iter(state)))
        self.task.set_state(state)

    def append(self, item: Json) -> None:
        if isinstance(self.task.state.get("items"), list):
            self.task.append("items", item)

    def append_text(self, text: str) -> None:
        if isinstance(self.task.state.get("text"), str):
            self.task.append("text", text)

    def grow(self, item: str) -> None:
        if isinstance(self.task.state.get("items"), list):
            self.task.update_state({"items": self.task.state["items"] + [item]})

    def set_lookalike(self, value: object) -> None:
        self.task.update_state({"n": value, "deep": [{"n": value}]})


def check_shown(live: Live, shown: list[TaskState], kinds: list[str]) -> None:
    """`shown` is what a fold made of one task's records of these `kinds`, the last ones there are."""
    for state in shown:
        expected = live.states[min(state.version, len(live.states) - 1)]
        assert canonical(state.state) == expected, f"version {state.version}"
    first = next((place for place, kind in enumerate(kinds) if kind in FULL), len(kinds))
    assert len(shown) == len(kinds) - first, "a task is shown from its first full state on"
    assert shown[-1].status == "completed"
    assert canonical(shown[-1].state) == live.states[-1]


async def check_every_start(streams: Streams, run_id: str, live: dict[str, Live]) -> None:
    """Fold from every record that a subscriber can start at, with a topic filter and without."""
    records = [record async for record in streams.subscribe(run_id, follow=False)]
    handler = streams.handler(run_id)
    for start in records:
        everything = [each async for each in handler.tasks(from_seq=start.seq)]
        for topic, one in live.items():
            kinds = [
                record.kind
                for record in records
                if record.seq >= start.seq and record.topic == topic
            ]
            if kinds:
                shown = [each async for each in handler.tasks(topic, from_seq=start.seq)]
                check_shown(one, shown, kinds)
                # The other tasks' records make no difference.
                alone = [(each.version, each.state) for each in shown]
                mixed = [(each.version, each.state) for each in everything if each.type == topic]
                assert canonical(alone) == canonical(mixed)


runs = iter(range(1_000_000))


async def play(
    url: str, both: list[tuple[dict[str, Any], list[Edit]]], draw: st.DrawFn, noise: int = 0
) -> tuple[str, dict[str, Live]]:
    """A run with two tasks, one in the other, that are edited in turn."""
    run_id = f"r{next(runs)}"
    (state, outer_edits), (inner_state, inner_edits) = both
    run = start_run("w", url=url, run_id=run_id)
    async with run, Task("outer", state=state) as outer, Task("inner", state=inner_state) as inner:
        live = {"outer": Live(outer), "inner": Live(inner)}
        for one in live.values():
            one.look()
        for place in range(max(len(outer_edits), len(inner_edits))):
            for one, its_edits in zip(live.values(), (outer_edits, inner_edits), strict=True):
                if place < len(its_edits):
                    one.make(its_edits[place], draw)
                for number in range(noise):
                    publish({"number": number})
    return run_id, live


# --- properties ----------------------------------------------------------------------------------

two_tasks = st.tuples(st.tuples(start_states, edits), st.tuples(start_states, edits)).map(list)
# From no snapshots at all to one with every change.
snapshot_sizes = st.sampled_from([0, 50, 200, 4096])


@pytest.mark.allow_blocking  # to draw an edit may take long, and has to happen between the calls
@settings(max_examples=100, deadline=None)
@given(two_tasks, snapshot_sizes, st.data())
async def test_the_fold_is_the_live_state_from_every_start(
    both: list[tuple[dict[str, Any], list[Edit]]], snapshot_bytes: int, data: st.DataObject
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "SNAPSHOT_AFTER_BYTES_MIN", snapshot_bytes)
        run_id, live = await play("memory:starts", both, cast("st.DrawFn", data.draw))
    async with connect("memory:starts") as streams:
        await check_every_start(streams, run_id, live)
        info = await streams.info(run_id)
        for through in range(1, info.last_seq, 3):
            await streams.log.trim(run_id, through=through)
            await check_every_start(streams, run_id, live)


@pytest.mark.allow_blocking  # as above
@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
@settings(max_examples=40, deadline=None)
@given(two_tasks, st.integers(1, 4), st.data())
async def test_a_tiny_queue_leaves_states_out_and_none_wrong(
    overflow: Overflow,
    both: list[tuple[dict[str, Any], list[Edit]]],
    queue: int,
    data: st.DataObject,
) -> None:
    url = f"memory:tiny-{overflow}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RUNSTREAM_QUEUE_RECORDS", str(queue))
        patch.setenv("RUNSTREAM_OVERFLOW", overflow)
        try:
            run_id, live = await play(url, both, cast("st.DrawFn", data.draw), noise=2)
            async with connect(url) as streams:
                await check_every_start(streams, run_id, live)
        finally:
            process.close_publishers()  # so that the next queue gets the next size


@settings(max_examples=200, deadline=None)
@given(start_states, st.lists(st.tuples(edits, st.integers(0, 4))), st.integers(1, 4), st.data())
def test_whenever_a_full_queue_is_taken_its_readers_end_at_the_exact_state(
    state: dict[str, Any],
    steps: list[tuple[list[Edit], int]],
    records_max: int,
    data: st.DataObject,
) -> None:
    outbox = make_outbox(records_max)
    fold, shown, kinds = TaskFold(), list[TaskState](), list[str]()

    def take(limit: int | None) -> None:
        batch = outbox.take(limit)
        if batch is None:
            return
        outbox.stored(batch)
        for draft in batch.drafts:
            kinds.append(draft.kind)
            (state,) = fold.feed(Record(len(kinds), draft, ORIGIN))
            shown.append(state)

    with inside(outbox), Task("t", state=state) as task:
        live = Live(task)
        live.look()
        for some_edits, limit in steps:
            for edit in some_edits:
                live.make(edit, cast("st.DrawFn", data.draw))
            if limit:
                take(limit)
            else:
                take(None)
                # All is taken: nobody is behind.
                assert canonical(shown[-1].state) == live.states[-1]
                assert len(taken(outbox)) == 0
    while outbox.waiting:
        take(None)
    check_shown(live, shown, kinds)


# --- what it costs on the wire -------------------------------------------------------------------


def stream_of(
    state: dict[str, Any], updates: list[dict[str, Any]], after_bytes: int
) -> list[Draft]:
    """All records of a task, with a snapshot due after `after_bytes` of deltas at the earliest."""
    outbox = make_outbox(1_000_000)
    with pytest.MonkeyPatch.context() as patch, inside(outbox):
        patch.setattr(task, "SNAPSHOT_AFTER_BYTES_MIN", after_bytes)
        with Task("t", state=state) as it:
            for update in updates:
                it.update_state(update)
    return taken(outbox)


def size(drafts: list[Draft]) -> int:
    return sum(len(bytes(draft.data)) for draft in drafts)


small_updates = st.lists(
    st.dictionaries(
        st.sampled_from("abcdef"), st.text(max_size=300) | st.integers(0, 9), max_size=3
    ),
    min_size=50,
    max_size=200,
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(keys, st.text(max_size=2000), max_size=5), small_updates)
def test_snapshots_together_cost_no_more_than_the_deltas_and_are_never_far(
    state: dict[str, Any], updates: list[dict[str, Any]]
) -> None:
    drafts = stream_of(state, updates, task.SNAPSHOT_AFTER_BYTES_MIN)
    deltas = stream_of(state, updates, 1 << 60)
    ids_bytes = 100
    snapshots = [draft for draft in drafts if draft.kind == "task.snapshot"]
    assert size(snapshots) <= size(deltas) + ids_bytes * len(snapshots)
    assert size(drafts) <= 2.1 * size(deltas)
    # A reader from anywhere reads less than the state's own size before it meets a full state.
    fold, behind = TaskFold(), 0
    for seq, draft in enumerate(drafts, 1):
        behind = 0 if draft.kind in FULL else behind + size([draft])
        (shown,) = fold.feed(Record(seq, draft, ORIGIN))
        assert behind < max(len(canonical(shown.state)) + 1, task.SNAPSHOT_AFTER_BYTES_MIN)


def test_a_delta_of_the_growing_list_costs_the_same_from_first_to_last() -> None:
    outbox = make_outbox(1_000_000)
    with inside(outbox), Task("token-stream", state={"tokens": []}) as it:
        for number in range(2_000):
            it.update_state({"tokens": it.state["tokens"] + [f"token{number:05}"]})
    drafts = taken(outbox)
    sizes = {
        len(bytes(draft.data)) - len(str(msgspec.json.decode(draft.data)["version"]))
        for draft in drafts
        if draft.kind == "task.progress"
    }
    assert len(sizes) == 1
    snapshots = [draft for draft in drafts if draft.kind == "task.snapshot"]
    assert 0 < size(snapshots) < size(drafts) / 2


def test_a_patch_longer_than_the_state_gives_way_to_the_state() -> None:
    state = {f"key{number}": 0 for number in range(10_000)}
    drafts = stream_of(state, [dict.fromkeys(state, 1)], task.SNAPSHOT_AFTER_BYTES_MIN)
    assert [draft.kind for draft in drafts] == ["task.started", "task.snapshot", "task.completed"]


# --- processes -----------------------------------------------------------------------------------

CHILD = """
from runstream import Task
with Task("t", state={"n": 0}) as task:
    task.update_state({"n": 1})
"""


async def test_a_subprocess_streams_its_tasks_into_the_run_that_its_parent_named(
    sqlite_url: str,
) -> None:
    async with start_run("w", url=sqlite_url, run_id="r") as run:
        await run_python(CHILD, run.environment())
    async with connect(sqlite_url) as streams:
        shown = [each async for each in streams.handler("r").tasks("t")]
    assert [(each["n"], each.status) for each in shown] == [
        (0, "running"),
        (1, "running"),
        (1, "completed"),
    ]


FORK = """
import os, sys
from runstream import Task, start_run
from runstream.errors import InvalidInput
with start_run("w", run_id="r"):
    with Task("t", state={"n": 0}) as task:
        child = os.fork()
        if child == 0:
            try:
                task.update_state({"n": 7})
            except InvalidInput as error:
                assert "belongs to the process that made it" in str(error)
            else:
                os._exit(3)
            sys.exit(0)  # leaves the blocks like the parent does
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        task.update_state({"n": 1})
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
async def test_a_task_goes_on_in_the_process_that_made_it(sqlite_url: str) -> None:
    await run_python(FORK, {**os.environ, "RUNSTREAM_URL": sqlite_url})
    async with connect(sqlite_url) as streams:
        shown = [each async for each in streams.handler("r").tasks()]
    assert [(each["n"], each.status) for each in shown] == [
        (0, "running"),
        (1, "running"),
        (1, "completed"),
    ]


async def run_python(source: str, environment: dict[str, str]) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", source],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
