"""Typed events: their kinds, their free fields, and what they say of the record they came from."""

from __future__ import annotations

import copy
import enum
import pickle
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from pydantic import PrivateAttr, ValidationError

from runstream.errors import InvalidInput, InvalidPayload
from runstream.events import (
    NAME_LENGTH_MAX,
    Event,
    HumanResponseEvent,
    StartEvent,
    StopEvent,
    WorkflowFailedEvent,
    check_name,
    event_class,
)
from runstream.payload import encode_payload
from runstream.record import Draft, Origin, Record

ORIGIN = Origin("g1", "nightly", None, "run-1")


class Progress(Event):
    done: int = 0


class Renamed(Event, kind="progress"):
    done: int = 0


class Remembering(Event):
    shown: str
    _seen: list[str] = PrivateAttr(default_factory=lambda: ["private"])


class Taken(Event):
    event_type: str
    record: list[int]


class Colour(enum.StrEnum):
    RED = "red"


def record_of(kind: str, raw: bytes) -> Record:
    return Record(7, Draft(1_000_000, "run-1", kind, msgspec.Raw(raw)), ORIGIN)


def test_the_kind_is_the_class_name_or_the_one_that_the_class_gives() -> None:
    assert Progress().event_type == "Progress"
    assert Renamed().event_type == "progress"
    assert type("Later", (Renamed,), {})().event_type == "Later"


@pytest.mark.parametrize("kind", ["run.paused", "step.x", "task.progress", "stream.gap"])
def test_a_reserved_kind_is_refused_when_the_class_is_made(kind: str) -> None:
    with pytest.raises(InvalidInput, match="reserved"):
        type("Own", (Event,), {}, kind=kind)


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a\rb", "a\0b", "\u2028", "\ud800", "x" * (NAME_LENGTH_MAX + 1), 7, None]
)
def test_a_name_that_would_break_a_line_or_an_index_is_refused(name: object) -> None:
    with pytest.raises(InvalidInput, match="kind"):
        check_name(name, "kind")


def test_an_empty_kind_is_refused_and_not_taken_for_none() -> None:
    with pytest.raises(InvalidInput, match="empty"):
        type("Nameless", (Event,), {}, kind="")


def test_the_name_of_an_enum_member_is_its_value_as_plain_text() -> None:
    name = check_name(Colour.RED, "kind")
    assert (name, type(name)) == ("red", str)


def test_unknown_fields_are_kept() -> None:
    event = HumanResponseEvent.model_validate({"response": "yes", "user": "ada", "tags": ["a"]})
    assert (event.response, event.user, event.tags) == ("yes", "ada", ["a"])
    assert msgspec.json.decode(encode_payload(event)) == {
        "response": "yes",
        "user": "ada",
        "tags": ["a"],
    }


def test_an_unknown_name_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match="missing"):
        _ = Progress().missing
    assert not hasattr(Progress(), "missing")


def test_an_event_that_is_not_filled_yet_has_no_fields_and_does_not_recurse() -> None:
    empty = Progress.__new__(Progress)
    with pytest.raises(AttributeError):
        _ = empty.anything


def test_event_type_and_record_give_way_to_fields_of_that_name() -> None:
    taken = Taken(event_type="mine", record=[1])
    assert (taken.event_type, taken.record) == ("mine", [1])
    free = Progress.model_validate({"event_type": "extra", "record": "extra too"})
    assert (free.event_type, free.record) == ("extra", "extra too")


def test_an_event_from_a_stream_knows_its_record_and_one_made_here_has_none() -> None:
    record = record_of("Progress", b'{"done":3}')
    event = record.as_event()
    assert isinstance(event, Progress)
    assert event.done == 3
    assert event.record is record
    assert Progress(done=3).record is None
    assert event == Progress(done=3)
    assert msgspec.json.decode(encode_payload(event)) == {"done": 3}


def test_the_record_of_an_event_with_such_a_field_does_not_overwrite_it() -> None:
    event = record_of("Taken", b'{"event_type":"mine","record":[2]}').as_event()
    assert (event.event_type, event.record) == ("mine", [2])


def test_a_kind_without_a_class_becomes_a_plain_event_with_its_fields() -> None:
    event = record_of("never.declared", b' {"text":"hi"}').as_event()
    assert type(event) is Event
    assert event.text == "hi"


def test_data_that_is_no_object_is_the_field_data() -> None:
    assert record_of("numbers", b"[1,2]").as_event().data == [1, 2]


def test_data_that_does_not_fit_the_class_says_so() -> None:
    with pytest.raises(ValidationError):
        record_of("Progress", b'{"done":"a lot"}').as_event()


def test_the_newest_class_of_a_kind_reads_it() -> None:
    class First(Event, kind="shared-kind"):
        pass

    class Second(Event, kind="shared-kind"):
        pass

    kinds = [made().event_type for made in (First, Second)]
    assert kinds == ["shared-kind"] * 2
    assert event_class("shared-kind") is Second
    assert event_class("run.failed") is WorkflowFailedEvent


def test_private_attributes_work_and_are_not_published() -> None:
    event = Remembering(shown="x")
    event._seen.append("more")  # pyright: ignore[reportPrivateUsage] # what the test is about
    assert event._seen == ["private", "more"]  # pyright: ignore[reportPrivateUsage] # (as above)
    assert encode_payload(event) == b'{"shown":"x"}'


def pickled(event: Any) -> Any:
    return pickle.loads(pickle.dumps(event))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, pickled])
def test_events_can_be_copied_and_pickled(again: Callable[[Any], Any]) -> None:
    event = Remembering.model_validate({"shown": "x", "extra": 1})
    event._seen.append("more")  # pyright: ignore[reportPrivateUsage] # what the test is about
    other = again(event)
    assert other == event
    assert (other.extra, other._seen, other.event_type) == (1, ["private", "more"], "Remembering")


def test_an_event_that_came_from_a_stream_can_be_pickled_too() -> None:
    event = record_of("Progress", b'{"done":3}').as_event()
    assert pickle.loads(pickle.dumps(event)) == event


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_a_number_in_an_event_is_refused_when_it_is_published(value: float) -> None:
    with pytest.raises(InvalidPayload, match=r"nan|inf"):
        encode_payload(StopEvent(result={"loss": [value]}))


def test_an_event_inside_a_dict_is_written_with_its_fields() -> None:
    payload = {"first": Progress(done=1), "rest": [StopEvent(result=Progress(done=2))]}
    assert msgspec.json.decode(encode_payload(payload)) == {
        "first": {"done": 1},
        "rest": [{"result": {"done": 2}}],
    }


def test_a_missing_input_says_where_it_would_come_from() -> None:
    with pytest.raises(AttributeError, match=r"no field 'cities': give it to `run\(\.\.\.\)`"):
        _ = StartEvent().cities
