"""What a task does at each call: the patterns of use, models, refusals."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, assert_type

import pytest
from pydantic import BaseModel, Field, model_validator

from held_outbox import data_of, folded, inside, make_outbox, taken
from runstream import Task, connect, process, start_run
from runstream.errors import InvalidInput, PayloadTooLarge
from runstream.fold import TaskState


@pytest.fixture(autouse=True)
def _no_publisher_left() -> Generator[None]:
    yield
    process.close_publishers()


async def tasks_of(url: str, run_id: str, topic: str | None = None) -> list[TaskState]:
    async with connect(url) as streams:
        return [task async for task in streams.handler(run_id).tasks(topic)]


# --- the patterns of use -------------------------------------------------------------------------


async def test_tokens_stream_as_they_come_and_the_task_completes_at_the_end_of_the_block() -> None:
    initial_state: dict[str, Any] = {"tokens": []}
    async with start_run("chat", url="memory:tokens", run_id="r"):
        async with Task(type="token-stream", state=initial_state) as task:
            for token in ("Hel", "lo", "!"):
                await task.update_state({"tokens": task.state["tokens"] + [token]})
        assert "".join(task.state["tokens"]) == "Hello!"
    assert initial_state == {"tokens": []}
    states = await tasks_of("memory:tokens", "r", "token-stream")
    assert [state["tokens"] for state in states] == [
        [],
        ["Hel"],
        ["Hel", "lo"],
        ["Hel", "lo", "!"],
        ["Hel", "lo", "!"],
    ]
    assert [state.status for state in states] == ["running"] * 4 + ["completed"]


async def test_a_state_held_across_updates_is_the_one_that_was_read() -> None:
    words = ["one", "two", "three"]
    initial_state: dict[str, Any] = {
        "processed_words": [],
        "progress_idx": 0,
        "progress_total": len(words),
    }
    async with Task(type="progress-stream", state=initial_state) as task:
        state = task.state
        for i, word in enumerate(words):
            before = repr(state)
            await task.update_state(
                {"processed_words": state["processed_words"] + [word], "progress_idx": i + 1}
            )
            assert repr(state) == before
            state = task.state
    assert task.state == {"processed_words": words, "progress_idx": 3, "progress_total": 3}


def test_append_changes_neither_the_callers_list_nor_a_state_that_was_read() -> None:
    callers: list[Any] = ["a"]
    with Task("t", state={"tokens": callers, "text": "x"}) as task:
        first = task.state
        task.append("tokens", "b")
        task.append("text", "y")
        second = task.state
        task.append("tokens", "c")
        task.append("text", "z")
        third = task.state
        task.update_state({"n": 1})
        task.append("tokens", "d")
    assert callers == ["a"]
    assert first == {"tokens": ["a"], "text": "x"}
    assert second == {"tokens": ["a", "b"], "text": "xy"}
    assert third == {"tokens": ["a", "b", "c"], "text": "xyz"}
    assert task.state == {"tokens": ["a", "b", "c", "d"], "text": "xyz", "n": 1}


def test_the_dict_given_to_set_state_stays_the_callers() -> None:
    mine: dict[str, Any] = {"tokens": []}
    with Task("t") as task:
        task.set_state(mine)
        mine["other"] = 1
        task.append("tokens", "a")
        assert task.state == {"tokens": ["a"]}
    assert mine == {"tokens": [], "other": 1}


def test_a_task_needs_no_state_and_no_run() -> None:
    with Task("thinking") as task:
        assert task.state == {}
        task.update_state({"n": 1})
    assert task.state == {"n": 1}


async def test_the_sync_and_the_async_form_give_the_same_stream() -> None:
    run = start_run("a", url="memory:forms", run_id="async")
    async with run, Task("t", state={"n": 0}, id="same") as task:
        await task.update_state({"n": 1})

    def with_sync() -> None:
        run = start_run("a", url="memory:forms", run_id="sync")
        with run, Task("t", state={"n": 0}, id="same") as task:
            task.update_state({"n": 1})

    await asyncio.to_thread(with_sync)
    one, other = await tasks_of("memory:forms", "async"), await tasks_of("memory:forms", "sync")
    assert len(one) == 3
    assert [task.record.raw for task in one] == [task.record.raw for task in other]


def test_records_name_topic_step_attempt_and_correlation() -> None:
    outbox = make_outbox()
    with inside(outbox), Task("t", state={"n": 0}, id="mine", correlation_id="gen-42") as task:
        task.update_state({"n": 1})
    drafts = taken(outbox)
    assert [draft.kind for draft in drafts] == ["task.started", "task.progress", "task.completed"]
    for draft in drafts:
        assert (draft.topic, draft.step, draft.step_run_id) == ("t", "step", "step-run")
        assert (draft.attempt, draft.correlation_id) == (2, "gen-42")
    assert [data_of(draft) for draft in drafts] == [
        {"task_id": "mine", "type": "t", "version": 0, "state": {"n": 0}},
        {"task_id": "mine", "version": 1, "patch": [{"op": "replace", "path": "/n", "value": 1}]},
        {"task_id": "mine", "type": "t", "version": 2, "state": {"n": 1}},
    ]


def test_two_tasks_have_two_ids() -> None:
    assert Task("t").id != Task("t").id


def test_a_change_before_the_block_is_part_of_its_first_state() -> None:
    outbox = make_outbox()
    task = Task("t", state={"n": 0})
    task.update_state({"n": 1})
    with inside(outbox), task:
        pass
    assert [state["n"] for state in folded(taken(outbox))] == [1, 1]


def test_an_update_that_changes_nothing_streams_nothing() -> None:
    outbox = make_outbox()
    with inside(outbox), Task("t", state={"n": 1, "text": ""}) as task:
        task.update_state({"n": 1})
        task.update_state({})
        task.append("text", "")
        task.set_state({"text": "", "n": 1})
        assert [draft.kind for draft in taken(outbox)] == ["task.started"]


# --- models and dataclasses ----------------------------------------------------------------------


class Part(BaseModel):
    name: str = "a"


class Progress(BaseModel):
    done: int = 0
    total: int = Field(default=1, alias="howMany")
    log: list[str] = []
    part: Part = Part()

    @model_validator(mode="after")
    def _check(self) -> Progress:
        if self.done > self.total:
            raise ValueError("more is done than there is")
        return self


@dataclass
class Work:
    done: int = 0
    log: list[str] = field(default_factory=list[str])


def test_a_models_update_is_validated_as_a_whole_and_named_by_its_fields() -> None:
    outbox = make_outbox()
    with inside(outbox), Task("t", state=Progress(howMany=3)) as task:
        task.update_state({"done": 5, "total": 10, "part": {"name": "b"}})
        task.append("log", "half")
        assert task.state == Progress(done=5, howMany=10, log=["half"], part=Part(name="b"))
    states = folded(taken(outbox))
    assert states[-1].state == {"done": 5, "howMany": 10, "log": ["half"], "part": {"name": "b"}}


@pytest.mark.parametrize(
    "updates", [{"done": "many"}, {"done": 2}, {"unknown": 1}, {"part": 1}, {"log": [1]}], ids=repr
)
def test_an_update_that_a_model_refuses_changes_nothing(updates: dict[str, Any]) -> None:
    outbox = make_outbox()
    state = Progress()
    with inside(outbox), Task("t", state=state) as task:
        with pytest.raises(InvalidInput):
            task.update_state(updates)
        assert task.state is state
        assert len(taken(outbox)) == 1


class Open(BaseModel, extra="allow"):
    n: int = 0


def test_a_model_that_allows_more_fields_keeps_them() -> None:
    with Task("t", state=Open()) as task:
        task.update_state({"more": 1})
        task.update_state({"n": 2})
    assert task.state.model_dump() == {"n": 2, "more": 1}


def test_a_dataclass_is_updated_by_replacing_it() -> None:
    outbox = make_outbox()
    first = Work()
    with inside(outbox), Task("t", state=first) as task:
        task.update_state({"done": 1})
        task.append("log", "x")
        with pytest.raises(InvalidInput, match="no field 'unknown'"):
            task.update_state({"unknown": 1})
    assert (first, task.state) == (Work(), Work(1, ["x"]))
    assert folded(taken(outbox))[-1].state == {"done": 1, "log": ["x"]}


def test_the_state_has_the_type_that_was_given() -> None:
    assert_type(Task("t").state, dict[str, Any])
    assert_type(Task("t", state={"tokens": []}).state, dict[str, Any])
    assert_type(Task("t", state=Work()).state, Work)
    assert isinstance(Task("t", state=Work()).state, Work)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 129, "\ud800", 3, None])
def test_names_that_no_record_can_have_are_refused(name: Any) -> None:
    with pytest.raises(InvalidInput):
        Task(name)
    if name is not None:
        with pytest.raises(InvalidInput):
            Task("t", id=name)
        with pytest.raises(InvalidInput):
            Task("t", correlation_id=name)


@pytest.mark.parametrize("state", [[], "text", 1, {1: 2}, {"n": float("nan")}, {"o": object()}])
def test_a_state_that_cannot_stream_is_refused_at_once(state: Any) -> None:
    with pytest.raises(InvalidInput):
        Task("t", state=state)


BAD = [float("nan"), float("-inf"), object(), "\ud800", "x" * 1_100_000, [[float("nan")]]]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_refused_change_leaves_state_and_stream_as_they_were(bad: Any) -> None:
    outbox = make_outbox()
    with inside(outbox), Task("t", state={"tokens": ["a"], "text": "x"}) as task:
        task.append("tokens", "b")
        before = task.state
        changes: list[Callable[[], object]] = [
            lambda: task.update_state({"tokens": ["a", "b", "c"], "bad": bad}),
            lambda: task.set_state({"text": "xy", "bad": bad}),
            lambda: task.append("tokens", bad),
        ]
        for change in changes:
            with pytest.raises(InvalidInput):
                change()
            assert task.state is before
        assert len(taken(outbox)) == 2
        task.append("tokens", "c")
        task.append("text", "y")
    states = folded(taken(outbox)[-1:])
    assert states[-1].state == task.state == {"tokens": ["a", "b", "c"], "text": "xy"}


@pytest.mark.parametrize("updates", [None, 1, ["tokens"], "text"])
def test_updates_that_are_no_dict_are_refused(updates: Any) -> None:
    with Task("t") as task, pytest.raises(InvalidInput, match="updates are a dict"):
        task.update_state(updates)


def test_append_needs_a_list_or_a_text_to_append_to() -> None:
    with Task("t", state={"text": "", "n": 1}) as task:
        with pytest.raises(InvalidInput, match="no list or text in a field 'n'"):
            task.append("n", 1)
        with pytest.raises(InvalidInput, match="no list or text in a field 'missing'"):
            task.append("missing", 1)
        with pytest.raises(InvalidInput, match="append text to it, not 1"):
            task.append("text", 1)
    assert task.state == {"text": "", "n": 1}


def test_the_limit_is_on_the_full_state_and_met_at_the_update() -> None:
    with Task("t", state={"text": ""}) as task:
        for _ in range(9):
            task.append("text", "x" * 100_000)
        with pytest.raises(PayloadTooLarge, match="the task's state would be 1000011 bytes"):
            task.append("text", "x" * 100_000)
        with pytest.raises(PayloadTooLarge):
            task.update_state({"more": "x" * 100_000})
        task.append("text", "y")
    assert len(task.state["text"]) == 900_001


def test_a_smaller_record_limit_makes_a_smaller_state_limit() -> None:
    outbox = make_outbox(size_bytes_max=2048)
    with inside(outbox):
        with pytest.raises(PayloadTooLarge, match="the limit is 1024"):
            Task("t", state={"text": "x" * 2000}).__enter__()
        assert taken(outbox) == []
        with pytest.raises(OSError), Task("t", state={"text": "x" * 1000}) as task:
            with pytest.raises(PayloadTooLarge):
                task.append("text", "x" * 1000)
            raise OSError("\0" * 20_000)
    assert max(len(bytes(draft.data)) for draft in taken(outbox)) <= 2048


def test_a_task_is_used_once() -> None:
    task = Task("t", state={"l": []})
    with task, pytest.raises(InvalidInput, match="entered before"):
        task.__enter__()
    changes: list[Callable[[], object]] = [
        lambda: task.update_state({}),
        lambda: task.set_state({}),
        lambda: task.append("l", 1),
    ]
    for change in changes:
        with pytest.raises(InvalidInput, match="has ended"):
            change()
    with pytest.raises(InvalidInput, match="entered before"):
        task.__enter__()
