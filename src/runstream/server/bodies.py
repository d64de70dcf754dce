"""Reading request bodies: bounded in bytes (also once they are unpacked) and in time."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from typing import Final, TypeVar

import msgspec
from starlette.types import Message, Receive, Scope

from ..api import JSON
from ..errors import InvalidInput, RequestTooLarge
from .answers import NotNow, Refused
from .site import Site

T = TypeVar("T")

# Of a refused body over HTTP/2: a batch that is a few times too large is still answered.
DISCARD_BYTES_MAX: Final = 16 * 1024 * 1024
DISCARD_S_MAX: Final = 5.0
# Bodies up to this size (a packet of a fast network, a usual batch) are not counted.
SMALL_BYTES_MAX: Final = 64 * 1024
# Where a request's scope says how much room its body holds.
HELD: Final = "runstream.body_bytes"
_JSON: Final = JSON.encode()
# Of a content-length: more of them are too large in any case.
_LENGTH_DIGITS_MAX: Final = 18
# zlib's number for "a gzip header and trailer, and the largest window".
_GZIP_WBITS: Final = 31


async def read_body(site: Site, scope: Scope, receive: Receive, *, optional: bool = False) -> bytes:
    """The request's body, unpacked. An `optional` one may be empty, and needs a type only if it is not.

    Raises:
        RequestTooLarge: more than the site takes, packed or unpacked.
        Refused: an encoding or media type that is not understood; too slow.
        InvalidInput: it broke off.
        NotNow: there is no room for more large bodies.
    """
    size_bytes_max, time_s_max = site.options.body_bytes_max, site.options.body_read_s_max
    media_type, encoding, size_bytes = _read_headers(scope, size_bytes_max)
    if not optional:
        _check_media_type(media_type)
    packed = _is_packed(encoding)
    held = _Held(site, scope)
    try:
        async with asyncio.timeout(time_s_max):
            body = await _read(receive, size_bytes, size_bytes_max, held)
    except TimeoutError:
        raise Refused(
            "request_timeout",
            f"the body did not arrive within {time_s_max:g} seconds",
            [(b"connection", b"close")],
        ) from None
    if optional and body:
        _check_media_type(media_type)
    if not packed or not body:
        return body
    body = _unpack(body, size_bytes_max)
    held.add(len(body))
    return body


class _Held:
    """What one request holds of the room that the site has for bodies; it does until it is answered.

    Only what has arrived counts, so that nobody takes room by announcing much; and small bodies pass at
    once, whatever the large ones are doing.
    """

    def __init__(self, site: Site, scope: Scope) -> None:
        self._site = site
        self._scope = scope
        self._size_bytes = 0

    def add(self, size_bytes: int) -> None:
        """Raises NotNow: there is no room."""
        self._size_bytes += size_bytes
        if self._size_bytes <= SMALL_BYTES_MAX:
            return
        new = self._size_bytes - self._scope.get(HELD, 0)
        if self._site.body_bytes_held + new > self._site.options.bodies_bytes_max:
            raise NotNow("the server has many large requests under way: send it again in a moment")
        self._site.body_bytes_held += new
        self._scope[HELD] = self._size_bytes


def let_go(site: Site, scope: Scope) -> None:
    """The request has been answered: its body makes room for others."""
    site.body_bytes_held -= scope.pop(HELD, 0)


class Body:
    """The body of an HTTP/2 request, so far: an answer that comes before its end never arrives there,
    because the server then resets the stream. What is left of it must be let in first.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._ended = not message.get("more_body")
        return message

    async def discard(self) -> None:
        """Read what is left, unless that is too much, or takes too long."""
        size_bytes = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_S_MAX):
                while not self._ended and size_bytes < DISCARD_BYTES_MAX:
                    size_bytes += len((await self.receive()).get("body", b""))


def decode(body: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Raises InvalidInput: not JSON, not UTF-8, or not of the form that the route asks for."""
    try:
        # The decoder copies parts of a body unseen; what is stored must be text for everyone.
        if not body.isascii():
            body.decode()
        return decoder.decode(body)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the body is not UTF-8: {error.reason} at byte {error.start}") from None
    except RecursionError:
        raise InvalidInput("the body cannot be read: it is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise InvalidInput(f"the body is not what this route takes: {error}") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from None


def _read_headers(scope: Scope, size_bytes_max: int) -> tuple[bytes, bytes, int | None]:
    """Media type, encoding, and the length if it is told. Raises RequestTooLarge at once if it is."""
    media_type, encoding, size_bytes = b"", b"", None
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type = value
        elif name == b"content-encoding":
            encoding = value
        elif name == b"content-length" and value.isdigit():
            size_bytes = int(value[:_LENGTH_DIGITS_MAX])
            if size_bytes > size_bytes_max:
                raise _too_large(size_bytes_max)
    return media_type, encoding, size_bytes


def _check_media_type(given: bytes) -> None:
    if given == _JSON:
        return
    text = given.decode("latin-1")
    kind, _, parameters = text.partition(";")
    charset = parameters.strip().lower().removeprefix("charset=").strip('"')
    if kind.strip().lower() != JSON or charset not in {"", "utf-8", "utf8"}:
        raise Refused(
            "unsupported_media_type",
            f"a body's content-type is {JSON} (in UTF-8), not {text!r}",
            [(b"accept-post", _JSON)],
        )


def _is_packed(encoding: bytes) -> bool:
    match encoding.strip().lower():
        case b"" | b"identity":
            return False
        case b"gzip" | b"x-gzip":
            return True
        case _:
            raise Refused(
                "unsupported_media_type",
                f"a body's content-encoding is gzip or none, not {encoding.decode('latin-1')!r}",
                [(b"accept-encoding", b"gzip")],
            )


async def _read(
    receive: Receive, told_bytes: int | None, size_bytes_max: int, held: _Held
) -> bytes:
    """The body. When its length is told nothing is waited for behind it: a server may take another turn
    between its threads to say that this was all.
    """
    parts: list[bytes] = []
    size_bytes = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            # It went away, or its chunks are garbage; whoever still listens is told.
            raise InvalidInput("the request's body broke off: nothing was done")
        part: bytes = message.get("body", b"")
        size_bytes += len(part)
        if size_bytes > size_bytes_max:
            raise _too_large(size_bytes_max)
        parts.append(part)
        held.add(len(part))
        if size_bytes == told_bytes or not message.get("more_body"):
            return part if len(parts) == 1 else b"".join(parts)


def _unpack(body: bytes, size_bytes_max: int) -> bytes:
    """What a gzip body holds; never more than the limit is unpacked, whatever it claims."""
    unpacking = zlib.decompressobj(wbits=_GZIP_WBITS)
    try:
        unpacked = unpacking.decompress(body, size_bytes_max + 1)
    except zlib.error as error:
        raise InvalidInput(f"the body is not gzip: {error}") from None
    if len(unpacked) > size_bytes_max:
        raise _too_large(size_bytes_max)
    if not unpacking.eof or unpacking.unused_data:
        raise InvalidInput("the body is not gzip: it is cut off, or something follows it")
    return unpacked


def _too_large(size_bytes_max: int) -> RequestTooLarge:
    return RequestTooLarge(
        f"a request's body has at most {size_bytes_max} bytes (unpacked): send it in parts"
    )
