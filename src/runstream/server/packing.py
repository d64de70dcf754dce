"""How whole answers are sent: packed with gzip, for clients that ask for it, where that pays.

Only whole answers: pages, lists, figures, the console's files. A stream is sent as its records come, in
frames that are encoded once for all of its followers, and every browser says that it takes gzip; packed, it
would cost the server a state per follower and hold records back in each proxy on the way.

(What a stranger wants to guess from the length of a packed answer needs a browser that sends credentials by
itself: no cookies are used here.)
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from http import HTTPStatus
from typing import Final

from starlette.types import Message, Scope, Send

from .answers import NotNow
from .site import Site

# What fits into one packet arrives no sooner when it is smaller.
PACKED_BYTES_MIN: Final = 1400
# Packing more would be noticed in an event loop (some 10 ms per MiB), and is done in a thread.
IN_LOOP_BYTES_MAX: Final = 64 * 1024
# Beyond it an answer is sent in parts of this size …
PART_BYTES: Final = 256 * 1024
# … each of which arrives in this time, on a line of 100 kbit/s too.
PART_S_MAX: Final = 30.0
# The fastest: JSON of many records shrinks to a tenth all the same.
_LEVEL: Final = 1
_GZIP_WBITS: Final = 31
_GZIP: Final = frozenset({b"gzip", b"x-gzip"})

_Headers = Iterable[tuple[bytes, bytes]]


def packing(site: Site, scope: Scope, send: Send) -> Send:
    """`send` for one answer that comes whole, in one message behind its start (others pass untouched).

    It raises NotNow, before anything is sent, when too many long answers wait for their readers.
    """
    takes_gzip = _takes_gzip(scope["headers"])
    start: Message = {}

    async def sending(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        body: bytes = message.get("body", b"")
        if start and start["status"] == HTTPStatus.OK and len(body) >= PACKED_BYTES_MIN:
            headers = [*start["headers"], (b"vary", b"accept-encoding")]
            if takes_gzip and not message.get("more_body"):
                in_loop = len(body) <= IN_LOOP_BYTES_MAX
                body = _pack(body) if in_loop else await asyncio.to_thread(_pack, body)
                message = {**message, "body": body}
                headers = [(name, value) for name, value in headers if name != b"content-length"]
                headers += [(b"content-encoding", b"gzip"), (b"content-length", b"%d" % len(body))]
            start = {**start, "headers": headers}
        with _room_for(site, len(body)):
            if start:
                await send(start)
                start = {}
            await _send_in_parts(send, message, body)

    return sending


@contextmanager
def _room_for(site: Site, size_bytes: int) -> Generator[None]:
    """What is sent in one part does not wait here, and always passes."""
    held_bytes = size_bytes if size_bytes > PART_BYTES else 0
    if held_bytes and site.answer_bytes_held + held_bytes > site.options.answers_bytes_max:
        raise NotNow("many long answers wait for their readers: ask for less, or again in a moment")
    site.answer_bytes_held += held_bytes
    try:
        yield
    finally:
        site.answer_bytes_held -= held_bytes


async def _send_in_parts(send: Send, message: Message, body: bytes) -> None:
    """A long body goes as its reader takes it. One that is left unread for too long is broken off, or
    connections that ask for much and read nothing would fill the memory.
    """
    begin = 0
    while len(body) - begin > PART_BYTES:
        part = body[begin : begin + PART_BYTES]
        begin += PART_BYTES
        try:
            async with asyncio.timeout(PART_S_MAX):
                await send({**message, "body": part, "more_body": True})
        except TimeoutError:
            return
    await send({**message, "body": body[begin:]})


def _takes_gzip(headers: _Headers) -> bool:
    """Whether `Accept-Encoding` names gzip, and not only to refuse it (RFC 9110, section 12.5.3)."""
    for name, value in headers:
        if name == b"accept-encoding":
            for part in value.lower().split(b","):
                coding, _, quality = part.partition(b";")
                if coding.strip() in _GZIP:
                    return quality.replace(b" ", b"").rstrip(b"0") not in {b"q=", b"q=0."}
    return False


def _pack(body: bytes) -> bytes:
    packer = zlib.compressobj(level=_LEVEL, wbits=_GZIP_WBITS)
    return packer.compress(body) + packer.flush()
