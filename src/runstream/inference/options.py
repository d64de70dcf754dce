"""What a request may ask for. An option means the same for every provider, or is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, cast

import msgspec

from ..errors import InvalidInput
from .tool_schema import check_tool, tool_name

ToolChoice = str | Mapping[str, Any]

_TOOL_CHOICES: Final = ("auto", "none", "required")


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceOptions:
    """The options of one generation; what is None is left to the model and its engine.

    Args:
        max_tokens: how many tokens may be generated, reasoning included.
        temperature: 0 always takes the likeliest token.
        top_p: draws from the likeliest tokens that have this probability together.
        top_k: draws from this many of the likeliest tokens.
        min_p: leaves out tokens that are less likely than this share of the likeliest.
        stop: texts that end the answer and are not part of it.
        seed: the same request with the same seed gives the same answer.
        presence_penalty, frequency_penalty: against repetition, as in OpenAI's API.
        tools: functions that the model may call, in the form of OpenAI's API.
        tool_choice: "auto", "none", "required", or the name of a function that must be called.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    stop: str | Sequence[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    tool_choice: ToolChoice | None = None

    def given(self) -> dict[str, Any]:
        """The options that are set, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


Options = InferenceOptions | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `least` to `most`."""

    type: type[int | float]
    least: float
    most: float

    def check(self, name: str, value: object) -> None:
        wanted = int if self.type is int else int | float
        if (
            isinstance(value, bool)
            or not isinstance(value, wanted)
            or not self.least <= cast("float", value) <= self.most
        ):
            kind = "a whole number" if self.type is int else "a number"
            raise InvalidInput(
                f"{name} is {kind} from {self.least:g} to {self.most:g}, not {value!r}"
            )


_INT32_MAX: Final = 2**31 - 1

_RANGES: Final = {
    "max_tokens": Range(int, 1, _INT32_MAX),
    "temperature": Range(float, 0, 10),
    "top_p": Range(float, 0, 1),
    "top_k": Range(int, 1, _INT32_MAX),
    "min_p": Range(float, 0, 1),
    "seed": Range(int, 0, 2**32 - 2),  # llama.cpp takes the largest for "any"
    "presence_penalty": Range(float, -2, 2),
    "frequency_penalty": Range(float, -2, 2),
}


def check_options(options: Options, provider: str, refused: Mapping[str, str]) -> dict[str, Any]:
    """The options that are set, by name, in one form: `stop` and `tools` as lists.

    `refused` are the options that the provider doesn't have, with the reason.

    Raises:
        InvalidInput: an option is unknown, refused, or its value is not acceptable.
    """
    given = _given(options)
    for name, value in given.items():
        if name in refused:
            raise InvalidInput(f"{provider} has no option {name!r}: {refused[name]}")
        if name in _RANGES:
            _RANGES[name].check(name, value)
    checked = dict(given)
    for name, check in _CHECKS.items():
        if name in given:
            checked[name] = check(given[name])
    choice = checked.get("tool_choice")
    if choice is not None:
        names = [tool_name(tool) for tool in checked.get("tools", ())]
        if choice not in _TOOL_CHOICES and choice not in names:
            raise InvalidInput(
                f"tool_choice is one of {', '.join(_TOOL_CHOICES)}, or the name of a given tool, "
                f"not {choice!r}"
            )
        if not names and choice != "none":
            raise InvalidInput("there is a tool_choice, but there are no tools")
    return checked


def openai_tool_choice(choice: str) -> ToolChoice:
    """A checked choice as OpenAI's API has it."""
    if choice in _TOOL_CHOICES:
        return choice
    return {"type": "function", "function": {"name": choice}}


def _given(options: Options) -> dict[str, Any]:
    match options:
        case None:
            return {}
        case InferenceOptions():
            return options.given()
        case Mapping():
            known = [field.name for field in fields(InferenceOptions)]
            unknown = [name for name in options if name not in known]
            if unknown:
                raise InvalidInput(
                    f"unknown option {unknown[0]!r}; there are: {', '.join(sorted(known))}"
                )
            return {name: value for name, value in options.items() if value is not None}
        case _:
            raise InvalidInput(f"options are InferenceOptions or a dict, not {options!r}")


def _stop(value: object) -> list[str]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, Sequence) or not all(
        isinstance(text, str) and text for text in cast("Sequence[object]", texts)
    ):
        raise InvalidInput(f"stop is a text or a list of texts, not {value!r}")
    return list(cast("Sequence[str]", texts))


def _tools(value: object) -> list[dict[str, Any]]:
    if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
        raise InvalidInput(f"tools are a list, not {value!r}")
    tools = [check_tool(tool) for tool in cast("Sequence[object]", value)]
    try:
        encoded = msgspec.json.encode(tools)
    except (TypeError, ValueError, UnicodeError) as error:
        raise InvalidInput(f"the tools are not JSON: {error}") from None
    return cast("list[dict[str, Any]]", msgspec.json.decode(encoded))


def _tool_choice(value: object) -> str:
    match value:
        case str():
            return value
        case {"type": "function", "function": {"name": str(name)}}:
            return name
        case _:
            raise InvalidInput(f"tool_choice is a name, not {value!r}")


_CHECKS: Final[Mapping[str, Callable[[object], Any]]] = {
    "stop": _stop,
    "tools": _tools,
    "tool_choice": _tool_choice,
}
