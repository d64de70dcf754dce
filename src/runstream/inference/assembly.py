"""Assembly: what engines say, piece by piece, becomes chunks and at the end one message.

Engines differ: some split reasoning from text, some leave it in `<think>` tags; tool calls come whole or in
fragments; the reason for the end comes with the last text, after it, or never. Here all become the same.
"""

from __future__ import annotations

import contextlib
from typing import Final, Literal

import msgspec

from .chunk import InferenceChunk
from .message import ChatMessage, ToolCall, Usage

_OPEN: Final = "<think>"
_CLOSE: Final = "</think>"


class CallFragment(msgspec.Struct, frozen=True):
    """Part of a tool call: the first has the name, the arguments come in as many as the engine likes."""

    index: int
    id: str | None
    name: str | None
    arguments: str


class Piece(msgspec.Struct, frozen=True):
    """What an engine gives in one go. Text may be empty, and characters may be split (into surrogates)."""

    content: str | None = None
    reasoning: str | None = None
    calls: tuple[CallFragment, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None


class Assembler:
    """One generation: feed it the pieces in order, then end it."""

    __slots__ = (
        "_calls",
        "_content",
        "_content_half",
        "_finish_reason",
        "_open_calls",
        "_reasoning",
        "_reasoning_half",
        "_tags",
        "_trim",
        "_usage",
        "_withheld",
    )

    def __init__(self) -> None:
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._content_half = _Halves()
        self._reasoning_half = _Halves()
        self._tags = _ThinkTags()
        # The template's own white space around reasoning is no part of it, nor of the text after it.
        self._trim = False
        self._withheld = ""
        self._open_calls: list[_OpenCall] = []
        self._calls: list[ToolCall] = []
        self._finish_reason: str | None = None
        self._usage: Usage | None = None

    def feed(self, piece: Piece) -> InferenceChunk | None:
        """The chunk that the piece completes, if there is anything new in it for the reader."""
        if piece.usage is not None:
            self._usage = piece.usage
        if piece.finish_reason is not None:
            self._finish_reason = piece.finish_reason
        content, reasoning = piece.content, piece.reasoning
        if reasoning:
            reasoning = self._reasoning_half.join(reasoning)
            self._tags.skip()
        if content:
            content = self._content_half.join(content)
            if self._tags.undecided:
                more, content = self._tags.split(content)
                reasoning = (reasoning or "") + more
        delta, reasoning_delta = self._trimmed(content, reasoning)
        calls = self._completed(piece.calls) if piece.calls else ()
        if not delta and not reasoning_delta and not calls:
            return None
        return InferenceChunk(delta or None, reasoning_delta or None, calls)

    def end(self) -> list[InferenceChunk]:
        """The engine has no more: what was held back, and the last chunk, with the reason for the end."""
        chunks: list[InferenceChunk] = []
        more, content = self._tags.end()
        delta, reasoning_delta = self._trimmed(
            content + self._content_half.end(), more + self._reasoning_half.end()
        )
        if delta or reasoning_delta:
            chunks.append(InferenceChunk(delta or None, reasoning_delta or None))
        last = self._close_calls(every=True)
        reason = self._finish_reason or "stop"
        if self._calls and reason in ("stop", "function_call"):
            reason = "tool_calls"
        self._finish_reason = reason
        chunks.append(InferenceChunk(None, None, last, reason, self._usage))
        return chunks

    def message(self) -> ChatMessage:
        """Everything so far, as the model's answer."""
        return ChatMessage(
            role="assistant",
            content="".join(self._content),
            reasoning="".join(self._reasoning),
            tool_calls=tuple(self._calls),
            finish_reason=self._finish_reason,
            usage=self._usage,
        )

    def _trimmed(self, content: str | None, reasoning: str | None) -> tuple[str, str]:
        if reasoning:
            if not self._reasoning:
                reasoning = reasoning.lstrip()
            reasoning = self._withheld + reasoning
            kept = reasoning.rstrip()
            # White space at the end is shown only if more reasoning follows.
            self._withheld = reasoning[len(kept) :] if kept or self._reasoning else ""
            reasoning = kept
            if reasoning:
                self._reasoning.append(reasoning)
                self._trim = not self._content
        if content:
            if self._trim:
                content = content.lstrip()
                self._trim = not content
            if content:
                self._content.append(content)
        return content or "", reasoning or ""

    def _completed(self, fragments: tuple[CallFragment, ...]) -> tuple[ToolCall, ...]:
        completed: tuple[ToolCall, ...] = ()
        for fragment in fragments:
            call = next((one for one in reversed(self._open_calls) if one.takes(fragment)), None)
            if call is None:
                if not fragment.name and not fragment.arguments:
                    continue  # the end of a call that is complete
                completed += self._close_calls()
                call = _OpenCall(fragment)
                self._open_calls.append(call)
            call.add(fragment)
        return completed

    def _close_calls(self, *, every: bool = False) -> tuple[ToolCall, ...]:
        """In the order in which they began; those whose arguments still come stay open."""
        before = len(self._calls)
        while self._open_calls and (every or self._open_calls[0].is_complete()):
            self._calls.append(self._open_calls.pop(0).close(len(self._calls)))
        return tuple(self._calls[before:])


class _OpenCall:
    """A tool call whose arguments are still coming."""

    __slots__ = ("_arguments", "_id", "_index", "_name")

    def __init__(self, first: CallFragment) -> None:
        self._index = first.index
        self._id = first.id
        self._name = first.name
        self._arguments: list[str] = []

    def takes(self, fragment: CallFragment) -> bool:
        """Whether a fragment goes on with this call.

        Some servers number all of them 0 and change the id, or give no id either and only begin again.
        """
        if fragment.index != self._index:
            return False
        if fragment.id and self._id:
            return fragment.id == self._id
        return not (fragment.name and fragment.arguments and self.is_complete())

    def is_complete(self) -> bool:
        """Whether the arguments are JSON as they are."""
        try:
            msgspec.json.decode("".join(self._arguments))
        except (msgspec.MsgspecError, UnicodeError):
            return False
        return True

    def add(self, fragment: CallFragment) -> None:
        self._id = self._id or fragment.id
        self._name = self._name or fragment.name
        self._arguments.append(fragment.arguments)

    def close(self, number: int) -> ToolCall:
        arguments = "".join(self._arguments) or "{}"
        # What is not JSON stays in the model's own words, so that whoever decodes it can say so.
        with contextlib.suppress(msgspec.MsgspecError, UnicodeError):
            arguments = msgspec.json.format(arguments, indent=-1)
        return ToolCall(self._id or f"call_{number}", self._name or "", arguments)


class _Halves:
    """Joins characters whose two UTF-16 halves came one after the other, as some servers escape them."""

    __slots__ = ("_half",)

    def __init__(self) -> None:
        self._half = ""

    def join(self, text: str) -> str:
        if text.isascii() and not self._half:
            return text
        text, self._half = self._half + text, ""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return _whole(text)

    def end(self) -> str:
        half, self._half = self._half, ""
        return _whole(half)


def _whole(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


class _ThinkTags:
    """Splits reasoning from a text that begins with `<think>`, wherever the engine cut the tags."""

    __slots__ = ("_held", "_state")

    def __init__(self) -> None:
        self._state: Literal["begin", "thinking", "text"] = "begin"
        self._held: str = ""

    @property
    def undecided(self) -> bool:
        """Whether text has to pass through `split`: it may be, or is, reasoning."""
        return self._state != "text"

    def skip(self) -> None:
        """The engine splits them itself."""
        if self._state == "begin":
            self._state = "text"

    def split(self, text: str) -> tuple[str, str]:
        """The reasoning and the text that are certain now; a part of a tag is held back."""
        text, self._held = self._held + text, ""
        if self._state == "begin":
            stripped = text.lstrip()
            if stripped.startswith(_OPEN):
                self._state, text = "thinking", stripped[len(_OPEN) :]
            elif _OPEN.startswith(stripped):
                self._held = text
                return "", ""
            else:
                self._state = "text"
                return "", text
        reasoning, tag, content = text.partition(_CLOSE)
        if tag:
            self._state = "text"
            return reasoning, content
        held = next(n for n in range(len(_CLOSE) - 1, -1, -1) if text.endswith(_CLOSE[:n]))
        self._held = text[len(text) - held :]
        return text[: len(text) - held], ""

    def end(self) -> tuple[str, str]:
        held, self._held = self._held, ""
        return (held, "") if self._state == "thinking" else ("", held)
