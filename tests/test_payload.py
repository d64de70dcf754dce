"""Payloads: a value as JSON exactly, or an error at the call."""

from __future__ import annotations

import collections
import dataclasses
import enum
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, computed_field

from json_states import states, thorough
from runstream.errors import InvalidInput, InvalidPayload, PayloadTooLarge
from runstream.events import Event, StopEvent
from runstream.payload import (
    NESTING_MAX,
    RECORD_SIZE_BYTES_MAX,
    decode_payload,
    encode_json,
    encode_payload,
    exception_payload,
)

NAN = float("nan")


class Model(BaseModel):
    value: Any = None


class Aliased(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    total_count: int = Field(alias="totalCount")


class Measured(BaseModel):
    loss: float | None = None
    scratch: float = Field(default=NAN, exclude=True)


class Computed(BaseModel):
    a: float

    @computed_field  # type: ignore[prop-decorator] # the order that pydantic documents
    @property
    def ratio(self) -> float:
        return self.a - self.a


class Numbers(RootModel[list[float]]):
    pass


class Struct(msgspec.Struct):
    value: Any = None


@dataclasses.dataclass
class Data:
    value: Any = None


@dataclasses.dataclass(slots=True)
class Slotted:
    value: Any = None


class Level(enum.Enum):
    UNKNOWN = NAN
    LOW = 1.5


class Float(float):
    """As numpy's float64 is one."""


class Whole(int):
    pass


class Text(str):
    __slots__ = ()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


class Pair(NamedTuple):
    left: int
    right: float


def nested(depth: int) -> dict[str, Any]:
    value: Any = 1
    for _ in range(depth - 1):
        value = [value]
    return {"a": value}


PAYLOADS: list[tuple[Any, bytes]] = [
    ({"text": "hi", "n": 1}, b'{"text":"hi","n":1}'),
    (StopEvent(result="hi"), b'{"result":"hi"}'),
    (Model(value=[1, None]), b'{"value":[1,null]}'),
    (Aliased(totalCount=3), b'{"totalCount":3}'),
    (Struct(value={"a": 1}), b'{"value":{"a":1}}'),
    (Data(value=(1, 2)), b'{"value":[1,2]}'),
    (Slotted(value=1.5), b'{"value":1.5}'),
    (b'{"ready": "made"}', b'{"ready": "made"}'),
    (bytearray(b"[1]"), b"[1]"),
    (memoryview(b"null"), b"null"),
    (collections.OrderedDict(b=1, a=2), b'{"b":1,"a":2}'),
    ({"a": Aliased(totalCount=1), "b": Numbers([1.0])}, b'{"a":{"totalCount":1},"b":[1.0]}'),
    ({"pair": Pair(1, 2), "level": Level.LOW}, b'{"pair":[1,2],"level":1.5}'),
    ({"f": Float(0.5), "i": Whole(3), "s": Text("t"), Text("k"): 1}, b'{"f":0.5,"i":3,"s":"t","k":1}'),
    ({1: "one", 2.5: "more"}, b'{"1":"one","2.5":"more"}'),
    ({"big": 2**70, "small": 5e-324}, b'{"big":1180591620717411303424,"small":5e-324}'),
]  # fmt: skip


@pytest.mark.parametrize(("payload", "raw"), PAYLOADS)
def test_each_sort_of_payload_is_written_as_what_it_is(payload: Any, raw: bytes) -> None:
    assert encode_payload(payload) == raw


@pytest.mark.parametrize(
    "payload", [None, 1, "text", [1], (1,), {1, 2}, Data, Model, object(), {"a": object()}, {"a": {(1,): 2}}]
)  # fmt: skip
def test_what_is_no_payload_is_refused(payload: Any) -> None:
    with pytest.raises(InvalidPayload):
        encode_payload(payload)


def hiding_places(value: float) -> dict[str, Any]:
    return {
        "dict": {"a": value},
        "deep in a dict": {"a": None, "b": [1, (2, {"c": value})]},
        "set": {"a": {value}},
        "subclass of float": {"a": Float(value)},
        "dataclass": Data(Data(value)),
        "dataclass with slots": {"a": Slotted([value])},
        "struct": {"a": Struct({"b": value})},
        "named tuple": {"a": Pair(1, value)},
        "model in a dict": {"a": Model(value=value)},
        "model in a struct": Struct(Model(value=value)),
        "list of a root model": Numbers([1.0, value]),
        "root model in a dict": {"a": Numbers([value])},
        "computed field": {"a": Computed(a=value)},
        "typed field": Measured(loss=value),
        "dict in a model": Model(value={"a": value}),
        "field of an event": StopEvent(result=value),
        "list in an event": StopEvent(result=[value]),
        "model in an event": StopEvent(result=Model(value=value)),
        "free field of an event": Event.model_validate({"a": value}),
    }


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
@pytest.mark.parametrize("place", hiding_places(1.0))
def test_not_a_number_is_refused_wherever_it_hides(place: str, value: float) -> None:
    assert b"null" not in encode_payload(hiding_places(1.5)[place]).replace(b'"a":null,', b"")
    with pytest.raises(InvalidPayload, match=r"^(nan|-?inf) is not JSON"):
        encode_payload(hiding_places(value)[place])


def test_not_a_number_behind_an_enum_is_refused() -> None:
    with pytest.raises(InvalidPayload, match="nan"):
        encode_payload({"level": Level.UNKNOWN})


def test_a_field_that_is_not_published_may_be_anything() -> None:
    assert encode_payload(Measured()) == b'{"loss":null}'


@pytest.mark.parametrize(
    "raw",
    [
        b"", b" ", b"{", b"{}x", b"{'a':1}", b"NaN", b'{"a":Infinity}', b"[1,]", b"01", b"tru",
        b'"a\nb"', b'"a\x00b"', b'"\xff"', b'"\xed\xa0\x80"', b'"\\ud800"', b'{"\\ud800":1}', b"1e999",
        b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00",
    ],
)  # fmt: skip
def test_what_some_reader_could_not_decode_is_refused(raw: bytes) -> None:
    for payload in (raw, {"a": msgspec.Raw(raw)}, Struct(value=[msgspec.Raw(raw)])):
        if raw.strip() == b"" and payload is not raw:
            continue  # an empty Raw inside a value is checked below
        with pytest.raises(InvalidPayload):
            encode_payload(payload)


def test_an_empty_raw_inside_a_value_is_refused() -> None:
    with pytest.raises(InvalidPayload):
        encode_payload({"a": msgspec.Raw(b"")})


@pytest.mark.parametrize("raw", [b'{\r\n "a": [1,\n2]\n}', b'\n{"a":[1,2]}\n', b'{"a":\t[1,\r2]}'])
def test_line_breaks_between_values_are_taken_out(raw: bytes) -> None:
    for payload in (raw, {"inner": msgspec.Raw(raw)}):
        encoded = encode_payload(payload)
        assert not {10, 13} & set(encoded)
        value = decode_payload(encoded)
        assert (value if payload is raw else value["inner"]) == {"a": [1, 2]}


def test_line_separators_and_control_characters_survive_in_text() -> None:
    text = "a\u2028b\u2029c\u0085d\r\n\x00\x1f\x7f\U0001f600"
    encoded = encode_payload({"text": text})
    assert not {10, 13, 0} & set(encoded)
    assert decode_payload(encoded) == {"text": text}


@pytest.mark.parametrize(
    "payload", [{"a": "\ud800"}, {"\udfff": 1}, Model(value="\ud800"), {"a": {"b": ["\udc80"]}}]
)
def test_lone_surrogates_are_refused(payload: Any) -> None:
    with pytest.raises(InvalidPayload, match=r"surrogates|valid Unicode"):
        encode_payload(payload)


def test_a_payload_that_contains_itself_is_refused() -> None:
    circle: dict[str, Any] = {}
    circle["self"] = [circle]
    for payload in (circle, Model(value=circle), Struct(value=circle), Data(value=circle)):
        with pytest.raises(InvalidPayload):
            encode_payload(payload)


@pytest.mark.parametrize("depth", [NESTING_MAX + 1, 1000, 10_000])
def test_nesting_that_not_every_reader_can_follow_is_refused(depth: int) -> None:
    value: Any = nested(depth)
    for payload in (value, b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"):
        with pytest.raises(InvalidPayload, match=r"deep|depth|contains itself"):
            encode_payload(payload)
    # (Pydantic's own models are recursive Python: they are refused too, by its words or by ours.)
    with pytest.raises(InvalidPayload):
        encode_payload(Model(value=value))


def test_the_deepest_nesting_that_is_taken_can_be_read_as_an_event() -> None:
    raw = encode_payload(nested(NESTING_MAX))
    assert decode_payload(raw) == nested(NESTING_MAX)
    assert Event.model_validate_json(raw).a == nested(NESTING_MAX)["a"]


def test_brackets_in_text_are_no_nesting() -> None:
    payload = {"text": "[{" * 5000, "rows": [{"cells": [1, 2]}] * 500}
    assert decode_payload(encode_payload(payload)) == payload


def test_a_payload_of_2_mib_is_refused_and_one_at_the_limit_is_not() -> None:
    with pytest.raises(PayloadTooLarge, match="the limit is 1048576"):
        encode_payload({"text": "x" * 2 * 1024 * 1024})
    for payload in (
        {"text": "x" * (RECORD_SIZE_BYTES_MAX - 11)},
        Model(value="x" * (RECORD_SIZE_BYTES_MAX - 12)),
    ):
        assert len(encode_payload(payload)) == RECORD_SIZE_BYTES_MAX
        with pytest.raises(PayloadTooLarge):
            encode_payload(payload, size_bytes_max=RECORD_SIZE_BYTES_MAX - 1)


def test_every_refusal_is_a_value_error_of_ours() -> None:
    assert issubclass(PayloadTooLarge, InvalidPayload)
    assert issubclass(InvalidPayload, InvalidInput)
    assert issubclass(InvalidInput, ValueError)


def test_a_later_change_changes_nothing() -> None:
    payload = {"rows": [1]}
    ready = bytearray(b'{"rows":[1]}')
    encoded = [encode_payload(payload), encode_payload(ready)]
    payload["rows"].append(2)
    ready[9:10] = b"9"
    assert encoded == [b'{"rows":[1]}'] * 2


@thorough
@given(states)
def test_what_is_decoded_is_what_was_encoded(value: Any) -> None:
    assert decode_payload(encode_json(value)) == value
    assert decode_payload(encode_payload({"value": value})) == {"value": value}
    assert decode_payload(encode_payload(Struct(value=value))) == {"value": value}
    assert decode_payload(encode_payload(StopEvent(result=value))) == {"result": value}


@thorough
@given(
    st.binary(max_size=40)
    | st.text(alphabet='{}[]",:0123456789.eE+-\\und8 \n\tfalsetrue', max_size=40).map(str.encode)
)
def test_any_bytes_are_refused_or_can_be_read_by_everyone(raw: bytes) -> None:
    try:
        encoded = encode_payload(raw)
    except InvalidPayload:
        return
    assert decode_payload(encoded) == decode_payload(raw)
    assert not {10, 13} & set(encoded)
    encoded.decode()


def test_an_exception_is_told_whatever_its_message_holds() -> None:
    assert exception_payload(ValueError("bad\ud800")) == {
        "type": "ValueError",
        "message": "bad\\ud800",
    }
    assert len(exception_payload(ValueError("x" * 10**6))["message"]) == 10_000
    assert exception_payload(Unprintable())["type"] == "Unprintable"
    assert "RuntimeError" in exception_payload(Unprintable())["message"]
    encode_payload({"exception": exception_payload(ValueError("\ud800" * 10**5))})
