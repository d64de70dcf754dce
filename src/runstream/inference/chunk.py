"""A chunk: what one step of a generation adds, in one shape for every provider."""

from __future__ import annotations

from typing import Any

import msgspec

from .message import ToolCall, Usage


class InferenceChunk(msgspec.Struct, frozen=True):
    """One piece of an answer.

    `delta` is text, `reasoning_delta` text of a model that thinks aloud; both are whole characters. The
    tool calls are those that were completed by this chunk. The last chunk, and only that, has the
    `finish_reason`, and the usage if it is known.
    """

    delta: str | None = None
    reasoning_delta: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None

    def get(self, name: str, default: Any = None) -> Any:
        """The field of that name, or `default` if it is empty or unknown: a chunk reads like a dict, too."""
        value = getattr(self, name, None) if name in self.__struct_fields__ else None
        return default if value is None or value == () else value

    def __getitem__(self, name: str) -> Any:
        if name not in self.__struct_fields__:
            raise KeyError(name)
        return getattr(self, name)
