"""Server-sent events, read: bytes in, in parts of any size, events out.

As the WHATWG's HTML standard says (section 9.2.6): lines end with CR, LF or CRLF, a byte order mark may
come first, comments and unknown fields mean nothing, and an event that was cut off is dropped: nobody
ever gets half of one. What our own server writes takes a path that looks at many events at once.
"""

from __future__ import annotations

import re
from typing import Final

from .errors import NotALog

# Bytes of one event: beyond the largest record that the settings allow, with its envelope. Whoever sends
# more is not a server of ours, and must not fill our memory.
FRAME_BYTES_MAX: Final = 65 * 1024 * 1024
# What a line of an event that has not ended takes at least, with its place in a list.
LINE_BYTES_MIN: Final = 64
# Of an event that has not ended, this much is kept as it came; more is taken apart line by line, so that
# its bytes are not looked at again with every part that arrives.
TAIL_BYTES_MAX: Final = 64 * 1024

_BOM: Final = b"\xef\xbb\xbf"
# One frame as `sse.encode_frame` writes it. (A dot is six times as fast as a set of characters; what
# it lets through is looked for in the whole text at once.)
_OURS: Final = re.compile(rb"id: (.*)\nevent: (.+)\ndata: (.*)\n\n")
_LINES_OF_OURS: Final = 4
_LINE_END: Final = re.compile(rb"\r\n|\r|\n")

# The last id (b"" before the first one), the type (b"message" if it has none), and the data of an event.
Frame = tuple[bytes, bytes, bytes]


class SseParser:
    """One response's events. `retry_ms` is what the server last asked for, `last_id` the newest id."""

    def __init__(self) -> None:
        self.last_id = b""
        self.retry_ms: int | None = None
        self._kind = b""
        self._data: list[bytes] = []
        # Of the event that has not ended: its lines so far, and the bytes behind them.
        self._begun = False
        self._size_bytes = 0
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._at_start = True
        self._after_cr = False

    def feed(self, part: bytes) -> list[Frame]:
        """The events that this part of the response completes.

        Raises NotALog for an event longer than `FRAME_BYTES_MAX`.
        """
        part = self._begin(part)
        self._tail.append(part)
        self._tail_bytes += len(part)
        frames: list[Frame] = []
        if b"\n" in part or b"\r" in part:
            frames = self._take(b"".join(self._tail))
        if self._size_bytes + self._tail_bytes > FRAME_BYTES_MAX:
            raise NotALog(f"the server sends an event of more than {FRAME_BYTES_MAX} bytes")
        return frames

    def _begin(self, part: bytes) -> bytes:
        """The part without what the standard drops at its beginning."""
        if self._at_start:
            part = b"".join([*self._tail, part])
            self._tail, self._tail_bytes = [], 0
            if len(part) >= len(_BOM) or not _BOM.startswith(part):
                self._at_start = False
                part = part.removeprefix(_BOM)
        if self._after_cr and part:
            self._after_cr = False
            part = part.removeprefix(b"\n")
        return part

    def _take(self, text: bytes) -> list[Frame]:
        frames: list[Frame] = []
        if self._begun:
            head, end, rest = text.partition(b"\n\n")
            if not end:
                return self._take_lines(text)
            frames = self._take_lines(head + end)
            text = rest
        cut = text.rfind(b"\n\n") + 2
        if cut < 2:  # noqa: PLR2004 - not found
            small = len(text) <= TAIL_BYTES_MAX and b"\r" not in text
            if not small:
                return frames + self._take_lines(text)
            self._keep(text)
            return frames
        whole = text[:cut]
        plain = not self._begun and b"\r" not in whole and b"\0" not in whole
        ours = _OURS.findall(whole) if plain else None
        # Nothing lies between the matches: all line breaks are theirs, and each one follows another.
        if (
            ours
            and whole.count(b"\n") == _LINES_OF_OURS * len(ours)
            and whole.count(b"\n\nid: ") == len(ours) - 1
            and whole.startswith(b"id: ")
        ):
            self.last_id = ours[-1][0]
            frames += ours
        else:
            frames += self._take_lines(whole)
        self._keep(text[cut:])
        return frames

    def _keep(self, tail: bytes) -> None:
        self._tail, self._tail_bytes = [tail] if tail else [], len(tail)

    def _take_lines(self, text: bytes) -> list[Frame]:
        """As the standard describes it, line by line; what follows the last line's end is kept."""
        frames: list[Frame] = []
        *lines, tail = _LINE_END.split(text)
        self._after_cr = text.endswith(b"\r")
        for line in lines:
            if line:
                self._begun = True
                self._size_bytes += max(len(line), LINE_BYTES_MIN)
                self._take_field(line)
                continue
            if self._data:
                frames.append((self.last_id, self._kind or b"message", b"\n".join(self._data)))
            self._kind, self._data = b"", []
            self._begun, self._size_bytes = False, 0
        self._keep(tail)
        return frames

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._kind = value
        elif name == b"id" and b"\0" not in value:
            self.last_id = value
        elif name == b"retry" and value.isdigit():
            self.retry_ms = int(value[:9])
