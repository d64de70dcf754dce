"""The form of OpenAI's API for chats: requests into it, chunks out of it. llama.cpp speaks it, too."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from ..errors import InferenceFailed
from .assembly import CallFragment, Piece
from .message import ChatMessage, Usage
from .options import openai_tool_choice


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Part(msgspec.Struct):
    """Mistral's servers send content in these when the model has reasoned."""

    text: str = ""
    thinking: list[_Part] | None = None


class _Delta(msgspec.Struct):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(msgspec.Struct):
    index: int | None = None
    delta: _Delta | None = None
    # In place of the delta, where a server does not stream.
    message: _Delta | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    # "error": the chunk itself is one.
    object: str | None = None
    message: Any = None


_decode: Final = msgspec.json.Decoder(_Chunk).decode
# How much of a chunk that cannot be read is shown.
_SHOWN: Final = 200


def request_of(
    messages: Sequence[ChatMessage], options: Mapping[str, Any], *, reasoning: bool
) -> dict[str, Any]:
    """The body of a streaming request; `reasoning` also sends what the model thought in earlier turns."""
    request: dict[str, Any] = {
        **options,
        "messages": [message.as_openai(reasoning=reasoning) for message in messages],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if "tool_choice" in options:
        request["tool_choice"] = openai_tool_choice(options["tool_choice"])
    return request


def piece_of(chunk: Mapping[str, Any]) -> Piece | None:
    """A decoded chunk's piece; None if it says nothing.

    Raises:
        InferenceFailed: it is no chunk, or it is the engine's error.
    """
    try:
        return _piece(msgspec.convert(chunk, _Chunk))
    except msgspec.ValidationError as error:
        raise _malformed(repr(chunk), error) from None


def piece_of_json(data: bytes) -> Piece | None:
    """The same of a chunk that is still JSON."""
    try:
        return _piece(_decode(data))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        try:
            # Half a character as an escape ("\\ud83d") is JSON to some servers; the assembly joins it.
            chunk = json.loads(data)
        except ValueError:
            raise _malformed(data.decode(errors="replace"), error) from None
        return piece_of(chunk)


def _piece(chunk: _Chunk) -> Piece | None:
    if chunk.error is not None or chunk.object == "error":
        raise InferenceFailed(_words(chunk.error or chunk.message))
    usage = None
    if chunk.usage is not None:
        usage = Usage(chunk.usage.prompt_tokens or 0, chunk.usage.completion_tokens or 0)
    # Who asks for several answers (`extra_body`) gets the first: mixed they would be none.
    choice = next((one for one in chunk.choices or () if not one.index), None)
    if choice is None:
        return None if usage is None else Piece(usage=usage)
    delta = choice.delta or choice.message
    reason = choice.finish_reason or None  # some say "" until the end
    if delta is None:
        return Piece(finish_reason=reason, usage=usage)
    content = delta.content or delta.refusal
    reasoning = delta.reasoning_content or delta.reasoning
    if isinstance(content, list):
        reasoning = "".join(thought.text for part in content for thought in part.thinking or ())
        content = "".join(part.text for part in content)
    calls = tuple(map(_fragment, delta.tool_calls)) if delta.tool_calls else ()
    if content or reasoning or calls or reason or usage:
        return Piece(content, reasoning, calls, reason, usage)
    return None


def _fragment(call: _Call) -> CallFragment:
    function = call.function or _Function()
    return CallFragment(call.index or 0, call.id, function.name, function.arguments or "")


def _words(error: object) -> str:
    """What an error chunk says, in whichever of the usual forms."""
    match error:
        case {"message": str(message)}:
            return message
        case str():
            return error
        case _:
            return repr(error)


def _malformed(chunk: str, error: Exception) -> InferenceFailed:
    return InferenceFailed(f"a malformed chunk ({error}): {chunk[:_SHOWN]}")
