"""What is known is what was streamed: operations lead there exactly, refusals change nothing."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from json_states import canonical, edit_inside, keys, states, thorough
from runstream.errors import InvalidInput, InvalidPayload, PayloadTooLarge
from runstream.known_state import LEVELS, STATE_SIZE_BYTES_MAX, KnownState
from runstream.patch import Json, apply
from runstream.payload import NESTING_MAX, encode_payload


def decoded(known: KnownState) -> Any:
    return msgspec.json.decode(known.whole())


def check_change(known: KnownState, state: object) -> list[Any]:
    """Change to `state`, and check that the operations lead a reader there."""
    before = decoded(known)
    operations: list[Any] = msgspec.json.decode(msgspec.json.encode(known.change_to(state)))
    assert canonical(apply(before, operations)) == canonical(decoded(known))
    return operations


def check_size(known: KnownState) -> None:
    raw = bytes(known.whole())
    assert known.size_bytes == (len(raw) if raw != b"{}" else 1)


dicts = st.dictionaries(keys, states, max_size=5)
grown_text = st.text(max_size=4)


@thorough
@given(st.lists(dicts, min_size=2, max_size=6))
def test_any_dict_can_become_any_other(history: list[dict[str, Json]]) -> None:
    known = KnownState(history[0])
    for state in history[1:]:
        check_change(known, state)
        assert canonical(decoded(known)) == canonical(state)
        assert known.change_to(state) == []
        check_size(known)


@st.composite
def growing(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Steps of a state with a text, a list of text and a list of anything."""
    names = st.sampled_from(["text", "items", "mixed", "update"])
    return [
        (name, draw(states if name == "mixed" else grown_text))
        for name in draw(st.lists(names, max_size=12))
    ]


@thorough
@given(growing(), grown_text, st.lists(grown_text, max_size=3), st.lists(states, max_size=2))
def test_growing_and_changing_in_any_order_is_exact(
    steps: list[tuple[str, Any]], text: str, items: list[str], mixed: list[Json]
) -> None:
    state: dict[str, Any] = {"text": text, "items": items, "mixed": mixed, "n": 0}
    known = KnownState(state)
    folded = decoded(known)
    for name, value in steps:
        if name == "update":
            state = {**state, "n": value, "text": state["text"] + value, "more": [value]}
            operations = known.change_to(state)
        else:
            growth: Any = value if name == "text" else [value]
            state = {**state, name: state[name] + growth}
            operation = known.grow(name, growth)
            assert operation is not None
            operations = [operation]
        folded = apply(folded, msgspec.json.decode(msgspec.json.encode(operations)))
        assert canonical(folded) == canonical(state) == canonical(decoded(known))
        check_size(known)


@thorough
@given(dicts, st.data())
def test_a_change_in_place_by_another_holder_is_found(
    state: dict[str, Json], data: st.DataObject
) -> None:
    known = KnownState(state)
    before = canonical(state)
    changed = dict(state)
    for _ in range(3):
        edit_inside(cast("Json", changed), cast("st.DrawFn", data.draw))
    # What is known has not changed through the lists and dicts that it was told of ...
    assert canonical(decoded(known)) == before
    # ... and compares with them as they were.
    check_change(known, changed)
    assert canonical(decoded(known)) == canonical(changed)


def test_values_that_python_takes_for_equal_are_told_apart() -> None:
    known = KnownState({"n": 1, "l": [1, True]})
    assert check_change(known, {"n": True, "l": [1, 1]}) == [
        {"op": "replace", "path": "/n", "value": True},
        {"op": "replace", "path": "/l/1", "value": 1},
    ]
    assert canonical(decoded(known)) == b'{"l":[1,1],"n":true}'


def test_a_list_or_text_that_grew_costs_its_new_part() -> None:
    state: dict[str, Any] = {"l": ["x"] * 5_000, "t": "y" * 5_000, "r": [{"n": 1}] * 1_000}
    known = KnownState(state)
    state = {"l": [*state["l"], "x"], "t": state["t"] + "y", "r": [*state["r"], {"n": 2}]}
    assert check_change(known, state) == [
        {"op": "append", "path": "/l", "value": ["x"]},
        {"op": "append", "path": "/t", "value": "y"},
        {"op": "append", "path": "/r", "value": [{"n": 2}]},
    ]


def test_a_list_of_text_that_shrank_or_changed_is_compared() -> None:
    known = KnownState({"l": ["a", "b", "c"]})
    check_change(known, {"l": ["a", "b"]})
    check_change(known, {"l": ["a", "x", "b"]})
    check_change(known, {"l": ["a", "x", "b", 1]})
    check_change(known, {"l": ["a", "x", "b", 1, "c"]})
    assert decoded(known) == {"l": ["a", "x", "b", 1, "c"]}


@pytest.mark.parametrize("growth", ["x", [1]])
def test_what_is_no_text_or_list_does_not_grow(growth: str | list[Any]) -> None:
    state: dict[str, Any] = {"number": 12, "object": {}, "null": None}
    state["other"] = [] if isinstance(growth, str) else "text"
    known = KnownState(state)
    for key in (*state, "missing"):
        assert known.grow(key, growth) is None
    assert decoded(known) == state


REFUSED: list[tuple[dict[Any, Any], type[InvalidInput]]] = [
    ({"a": ["x", "y"], "t": "tt", "bad": float("nan")}, InvalidPayload),
    ({"a": ["x", "y"], "t": "tt", "bad": [{"deep": float("inf")}]}, InvalidPayload),
    ({"a": ["x", "y"], "t": "tt", "bad": object()}, InvalidPayload),
    ({"a": ["x", "y"], "t": "tt", "bad": "\ud800"}, InvalidPayload),
    ({"a": ["x", "\ud800"], "t": "tt"}, InvalidPayload),
    ({"a": ["x", "y"], "t": "t\ud800"}, InvalidPayload),
    ({"a": ["x", "y"], "t": "tt", "\ud800": 1}, InvalidPayload),
    ({"a": ["x", "y"], "t": "tt", 1: 1}, InvalidInput),
    ({"a": ["x", "y"], "t": "tt", "bad": "x" * STATE_SIZE_BYTES_MAX}, PayloadTooLarge),
    ({"a": ["x", "y" * STATE_SIZE_BYTES_MAX], "t": "tt"}, PayloadTooLarge),
]


@pytest.mark.parametrize(("state", "error"), REFUSED, ids=range(len(REFUSED)))
def test_a_refused_change_leaves_everything_as_it_was(
    state: dict[Any, Any], error: type[InvalidInput]
) -> None:
    known = KnownState({"a": ["x"], "t": "t"})
    with pytest.raises(error):
        known.change_to(state)
    assert bytes(known.whole()) == b'{"a":["x"],"t":"t"}'
    check_size(known)
    assert check_change(known, {"a": ["x", "z"], "t": "tu"}) == [
        {"op": "append", "path": "/a", "value": ["z"]},
        {"op": "append", "path": "/t", "value": "u"},
    ]


@pytest.mark.parametrize("growth", [[float("nan")], [object()], ["x" * STATE_SIZE_BYTES_MAX]])
def test_refused_growth_leaves_everything_as_it_was(growth: list[Any]) -> None:
    known = KnownState({"a": ["x"]})
    with pytest.raises(InvalidInput):
        known.grow("a", growth)
    assert bytes(known.whole()) == b'{"a":["x"]}'
    check_size(known)


class Anything(BaseModel):
    a: Any


@pytest.mark.parametrize("make", [dict, Anything])
def test_a_state_is_no_deeper_than_the_records_of_it_may_be(make: Callable[..., object]) -> None:
    def nested(depth: int) -> Json:
        value: Json = []
        for _ in range(depth - 1):
            value = [value]
        return value

    deepest = NESTING_MAX - LEVELS
    known = KnownState({})
    encode_payload({"patch": known.change_to(make(a=nested(deepest)))})
    encode_payload({"state": known.whole()})
    with pytest.raises(InvalidPayload):
        known.change_to(make(a=nested(deepest + 1)))
    growing = KnownState({"a": []})
    encode_payload({"patch": [growing.grow("a", [nested(deepest - 1)])]})
    with pytest.raises(InvalidPayload):
        growing.grow("a", [nested(deepest)])


def test_the_limit_is_on_the_full_state_to_the_byte() -> None:
    known = KnownState({"a": "", "ü": ""})
    known.limit(100)
    room = 100 - len('{"a":"","ü":""}'.encode())
    known.grow("a", "x" * room)
    with pytest.raises(PayloadTooLarge, match=r"101 bytes of JSON, the limit is 100"):
        known.grow("ü", "x")
    with pytest.raises(PayloadTooLarge):
        known.change_to({"a": "x" * room, "ü": "x"})
    known.change_to({"ü": "x" * room, "a": ""})
    assert len(bytes(known.whole())) == 100
    with pytest.raises(PayloadTooLarge):
        known.limit(99)


@pytest.mark.parametrize(
    "state", [None, 1, "text", ["list"], {1, 2}, BaseModel, msgspec.Raw(b"{}")]
)
def test_a_state_that_has_no_fields_is_refused(state: object) -> None:
    with pytest.raises(InvalidInput, match="a dict, a pydantic model or a dataclass"):
        KnownState(state)


# --- models and dataclasses ----------------------------------------------------------------------


class Level(enum.Enum):
    LOW = "low"
    HIGH = "high"


class Inner(BaseModel):
    seen_at: datetime = Field(default=datetime(2026, 1, 1, tzinfo=UTC), alias="seenAt")
    level: Level = Level.LOW


class Model(BaseModel):
    tokens: list[str] = []
    inner: Inner = Inner()


@dataclass
class Data:
    tokens: list[str]
    inner: Inner


@pytest.mark.parametrize("kind", [Model, Data])
def test_models_and_dataclasses_are_known_as_their_json(kind: type[Model | Data]) -> None:
    known = KnownState(kind(tokens=["a"], inner=Inner()))
    assert decoded(known) == {
        "tokens": ["a"],
        "inner": {"seenAt": "2026-01-01T00:00:00Z", "level": "low"},
    }
    changed = kind(tokens=["a", "b"], inner=Inner(level=Level.HIGH))
    assert check_change(known, changed) == [
        {"op": "append", "path": "/tokens", "value": ["b"]},
        {"op": "replace", "path": "/inner/level", "value": "high"},
    ]


def test_a_state_may_change_its_type() -> None:
    known = KnownState({"tokens": ["a"], "n": 1})
    check_change(known, Model(tokens=["a", "b"]))
    check_change(known, {"tokens": ["a", "b", "c"], "n": 1})
    assert decoded(known) == {"tokens": ["a", "b", "c"], "n": 1}
    assert known.grow("tokens", ["d"]) is not None
    assert decoded(known)["tokens"] == ["a", "b", "c", "d"]
