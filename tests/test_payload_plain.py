"""The shorter way for plain models writes what pydantic would write."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PlainSerializer, SecretStr, computed_field, field_serializer

from runstream.errors import InvalidPayload
from runstream.events import Event
from runstream.payload import encode_payload

TEXT = st.text(st.characters(exclude_categories=["Cs"]))


class Plain(Event):
    text: str
    number: int | float | None = None
    flag: bool = False


class Nested(BaseModel):
    inner: Plain | None
    items: list[int]


@given(
    TEXT,
    st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
    st.booleans(),
    st.dictionaries(st.from_regex(r"extra_[a-z]{1,5}", fullmatch=True), TEXT, max_size=2),
)
def test_a_plain_event_is_written_as_pydantic_would(
    text: str, number: float | None, flag: bool, extra: dict[str, str]
) -> None:
    event = Plain(text=text, number=number, flag=flag, **extra)

    written = msgspec.json.decode(encode_payload(event))

    assert written == msgspec.json.decode(event.model_dump_json())
    assert Plain.model_validate(written) == event


def test_nested_models_are_written_whole() -> None:
    model = Nested(inner=Plain(text="x"), items=[1, 2])

    assert msgspec.json.decode(encode_payload(model)) == model.model_dump(mode="json")


class Aliased(Event):
    text: str = Field(alias="Text")


class Hidden(Event):
    text: str = Field(default="x", exclude=True)


class Shouting(Event):
    text: Annotated[str, PlainSerializer(str.upper)]


class Doubling(Event):
    number: int

    @field_serializer("number")
    def double(self, number: int) -> int:
        return number * 2


class Computing(Event):
    number: int

    @computed_field
    def twice(self) -> int:
        return self.number * 2


class Secret(Event):
    text: SecretStr


@pytest.mark.parametrize(
    ("event", "written"),
    [
        (Aliased(Text="x"), {"Text": "x"}),
        (Hidden(), {}),
        (Shouting(text="x"), {"text": "X"}),
        (Doubling(number=2), {"number": 4}),
        (Computing(number=2), {"number": 2, "twice": 4}),
        (Secret(text=SecretStr("x")), {"text": "**********"}),
    ],
)
def test_what_a_class_does_for_itself_is_kept(event: Event, written: dict[str, Any]) -> None:
    assert msgspec.json.decode(encode_payload(event)) == written


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_json_lacks_is_refused_in_a_plain_event(number: float) -> None:
    with pytest.raises(InvalidPayload):
        encode_payload(Plain(text="x", number=number))
    with pytest.raises(InvalidPayload):
        encode_payload(Plain.model_validate({"text": "x", "extra": number}))
