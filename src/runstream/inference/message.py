"""Messages of a chat, and the tool calls in them: the same for every provider."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Self, cast

import msgspec

from ..errors import InferenceFailed, InvalidInput

Role = Literal["system", "user", "assistant", "tool"]

_ROLES: Final = ("system", "user", "assistant", "tool")
# What a message given as a dict may have, as OpenAI's API spells it, and our own name for reasoning.
_KEYS: Final = {
    "role",
    "content",
    "reasoning",
    "reasoning_content",
    "tool_calls",
    "tool_call_id",
    "name",
}


class Usage(msgspec.Struct, frozen=True):
    """How many tokens a generation took: those of the prompt, and those that were generated."""

    prompt_tokens: int
    completion_tokens: int

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class ToolCall(msgspec.Struct, frozen=True):
    """A call that the model asks for. `arguments` is JSON, compact if it is valid."""

    id: str
    name: str
    arguments: str

    def decode_arguments(self) -> dict[str, Any]:
        """The arguments as a dict.

        Raises:
            InferenceFailed: the model wrote something that is no JSON object.
        """
        try:
            return msgspec.json.decode(self.arguments, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise InferenceFailed(
                f"the model called {self.name!r} with arguments that are no JSON object ({error}): "
                f"{self.arguments[:200]}"
            ) from None


class ChatMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a chat. A provider's answer is one, too, and goes into the next request as it is.

    Only an answer has `finish_reason` (why the model stopped: "stop", "length", "tool_calls", …) and
    `usage`.
    """

    role: Role
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    finish_reason: str | None = None
    usage: Usage | None = None

    @classmethod
    def system(cls, content: str) -> Self:
        """What the model is to be."""
        return cls(role="system", content=content)

    @classmethod
    def user(cls, content: str) -> Self:
        """What the user says."""
        return cls(role="user", content=content)

    @classmethod
    def assistant(
        cls, content: str = "", *, reasoning: str = "", tool_calls: Sequence[ToolCall] = ()
    ) -> Self:
        """What the model has said before."""
        return cls(
            role="assistant", content=content, reasoning=reasoning, tool_calls=tuple(tool_calls)
        )

    @classmethod
    def tool(cls, content: str, *, tool_call_id: str) -> Self:
        """What a tool that the model called has given."""
        return cls(role="tool", content=content, tool_call_id=tool_call_id)

    def as_openai(self, *, reasoning: bool) -> dict[str, Any]:
        """The message as OpenAI's API has it; `reasoning` adds `reasoning_content`, which that API lacks."""
        message: dict[str, Any] = {"role": self.role, "content": self.content}
        if reasoning and self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call in self.tool_calls
            ]
        if self.tool_call_id is not None:
            message["tool_call_id"] = self.tool_call_id
        return message


Messages = Sequence[ChatMessage | Mapping[str, Any]]


def check_messages(messages: Messages) -> list[ChatMessage]:
    """The messages of a request; those in the form of OpenAI's API are converted.

    Raises:
        InvalidInput: there is none, or one has no role, an unknown role or field, or content that is no
            text.
    """
    given = cast("object", messages)
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise InvalidInput("messages are a list, such as [ChatMessage.user('Hello')]")
    if not messages:
        raise InvalidInput("there is no message to answer")
    return [_message(message, f"message {number}") for number, message in enumerate(messages)]


def _message(given: object, where: str) -> ChatMessage:
    if isinstance(given, ChatMessage):
        message = given
    elif isinstance(given, Mapping):
        message = _converted(cast("Mapping[str, Any]", given), where)
    else:
        raise InvalidInput(f"{where} is neither a ChatMessage nor a dict, but {given!r}")
    if message.role not in _ROLES:
        raise InvalidInput(f"{where} has the role {message.role!r}; there are {', '.join(_ROLES)}")
    for field in ("content", "reasoning"):
        text: object = getattr(message, field)
        if not isinstance(text, str):
            raise InvalidInput(f"{where}: its {field} is not text, but {text!r}")
    if message.role == "tool" and not message.tool_call_id:
        raise InvalidInput(f"{where} is a tool's result and needs the tool_call_id that it answers")
    return message


def _converted(given: Mapping[str, Any], where: str) -> ChatMessage:
    if "role" not in given:
        raise InvalidInput(f"{where} has no role; there are {', '.join(_ROLES)}")
    unknown = given.keys() - _KEYS
    if unknown:
        raise InvalidInput(f"{where} has unknown fields: {', '.join(sorted(map(str, unknown)))}")
    content = given.get("content")  # OpenAI's null beside tool calls
    calls: Any = given.get("tool_calls") or ()
    try:
        tool_calls = tuple(
            call
            if isinstance(call, ToolCall)
            else ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in calls
        )
    except (KeyError, TypeError):
        raise InvalidInput(
            f"{where}: a tool call is {{'id': …, 'function': {{'name': …, 'arguments': …}}}}"
        ) from None
    return ChatMessage(
        role=given["role"],
        content="" if content is None else content,
        reasoning=given.get("reasoning") or given.get("reasoning_content") or "",
        tool_calls=tool_calls,
        tool_call_id=given.get("tool_call_id"),
    )
