"""Any server that speaks OpenAI's API for chats, through the `openai` client.

The client makes the request: address, key, time limits, and trying again what may be (429, 5xx, no
connection) before the first chunk. The stream of its answer is read here, since the client would not tell
whether it was cut off.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, Final, Self
from weakref import WeakKeyDictionary

from ..errors import InferenceFailed
from .assembly import Piece
from .chunk_stream import InferenceChunkStream, OnChunk, run_callback
from .hand_over import PIECES_MAX
from .local_engine import import_extra, require_extra
from .message import ChatMessage, Messages, check_messages
from .openai_form import piece_of_json, request_of
from .options import Options, check_options

_MODULE: Final = "openai"
_EXTRA: Final = "openai"

# After the finish reason a server still sends usage and `[DONE]`; one that doesn't is not waited for.
AFTER_END_S: Final = 2.0
# A line longer than this is no chunk of text, and must not fill the memory.
LINE_BYTES_MAX: Final = 16 * 1024 * 1024

_NOT_STANDARD: Final = (
    "it is not in OpenAI's API; for a server that has it: OpenAIProvider(extra_body=…)"
)
_REFUSED: Final = {"top_k": _NOT_STANDARD, "min_p": _NOT_STANDARD}


class OpenAIProvider:
    """A `Provider` that asks a server.

    Args:
        model: the model's name there; servers with one model take any.
        base_url: such as "http://127.0.0.1:8080/v1"; None: OpenAI's own, or `OPENAI_BASE_URL`.
        api_key: None: for a given `base_url` none, else `OPENAI_API_KEY`.
        timeout: seconds without a byte from the server.
        max_retries: how often a request is made again that was refused for now (429, 5xx) or found no
            server, with growing pauses. An answer that has begun is never asked for again.
        extra_body: fields that this server has beside OpenAI's.

    Raises:
        ExtraMissing: openai is not installed.
    """

    def __init__(
        self,
        model: str = "default",
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout: float = 600.0,
        max_retries: int = 2,
        extra_body: Mapping[str, Any] | None = None,
    ) -> None:
        require_extra(_MODULE, _EXTRA)
        if api_key is None and base_url is not None:
            api_key = "none"  # the client wants one, and the one in the environment is not for this server
        self._connect: Callable[[], Any] = lambda: _client(
            base_url=base_url, api_key=api_key, timeout=timeout, max_retries=max_retries
        )
        # One for each event loop: connections belong to the loop that opened them.
        self._clients: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[Any]] = (
            WeakKeyDictionary()
        )
        self._model = model
        self._extra_body = extra_body
        self._answers: set[_Answer] = set()
        self._closed = False

    async def stream(
        self, messages: Messages, on_chunk: OnChunk, options: Options = None
    ) -> ChatMessage:
        """See `Provider.stream`."""
        return await run_callback(self.stream_chunks(messages, options), on_chunk)

    def stream_chunks(self, messages: Messages, options: Options = None) -> InferenceChunkStream:
        """See `Provider.stream_chunks`."""
        request = request_of(
            check_messages(messages),
            check_options(options, "OpenAI's API", _REFUSED),
            reasoning=False,
        )
        return InferenceChunkStream(lambda: self._begin(request))

    async def load(self) -> None:
        """See `Provider.load`: prepares the client, and asks the server nothing."""
        await self._connected()

    async def aclose(self) -> None:
        """See `Provider.aclose`. The server is told by closing the connections."""
        self._closed = True
        for answer in list(self._answers):
            answer.fail(_closed())
            await answer.aclose()
        making = self._clients.pop(asyncio.get_running_loop(), None)
        if making is not None:
            with contextlib.suppress(InferenceFailed):  # it could not be made
                client = await making
                await client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _begin(self, request: dict[str, Any]) -> _Answer:
        if self._closed:
            raise _closed()
        answer = _Answer(lambda: self._pieces(request), self._answers.discard)
        self._answers.add(answer)
        return answer

    async def _connected(self) -> Any:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            # In a thread: to import the library and to read the certificates takes half a second.
            self._clients[loop] = loop.create_task(asyncio.to_thread(self._connect))
        return await asyncio.shield(self._clients[loop])

    async def _pieces(self, request: dict[str, Any]) -> AsyncGenerator[Piece]:
        """The pieces of one answer, as the server sends them."""
        finished = False
        client = await self._connected()
        create = client.chat.completions.with_streaming_response.create
        try:
            async with (
                create(model=self._model, extra_body=self._extra_body, **request) as response,
                contextlib.aclosing(_data(response.iter_bytes())) as data,
            ):
                while True:
                    # Entered anew for each line: a slow reader of the pieces is not a slow server.
                    async with asyncio.timeout(AFTER_END_S if finished else None):
                        line = await anext(data, None)
                    if line is None and not finished:
                        raise InferenceFailed(
                            "the server ended its answer without a finish reason and without [DONE]: it "
                            "is cut off"
                        )
                    if line is None or line == b"[DONE]":
                        return
                    piece = piece_of_json(line)
                    if piece is not None:
                        finished = finished or piece.finish_reason is not None
                        yield piece
        except InferenceFailed:
            raise
        except Exception as error:  # the client's many errors, and those of the one below it
            if finished and isinstance(error, TimeoutError):
                return  # the answer is there, and the server forgot to end it
            raise _failed(error) from error


def _client(**options: Any) -> Any:
    library: Any = import_extra(_MODULE, _EXTRA)
    try:
        client = library.AsyncOpenAI(**options)
    except library.OpenAIError as error:
        raise InferenceFailed(f"the server: {error}") from None
    # It imports its parts when they are first looked at.
    _ = client.chat.completions.with_streaming_response
    return client


async def _data(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """The data of a Server-Sent Events stream, line by line; other lines, and empty ones, say nothing here.

    JSON that is no event is the last: the whole answer of a server that does not stream, or its error.
    """
    rest = b""
    async for chunk in chunks:
        rest += chunk
        if not _is_json(rest):
            *lines, rest = rest.split(b"\n")
            for line in lines:
                if data := _data_of(line):
                    yield data
        if len(rest) > LINE_BYTES_MAX:
            raise InferenceFailed(f"the server sent a line of more than {LINE_BYTES_MAX} bytes")
    if data := rest if _is_json(rest) else _data_of(rest):
        yield data


def _is_json(text: bytes) -> bool:
    return text.lstrip().startswith(b"{")


def _data_of(line: bytes) -> bytes:
    return line[5:].strip() if line.startswith(b"data:") else b""


def _failed(error: Exception) -> InferenceFailed:
    status = getattr(error, "status_code", None)
    words = str(error) or type(error).__name__
    cause = error.__cause__
    if cause is not None and str(cause) and str(cause) not in words:
        words += f" ({cause})"
    return InferenceFailed(
        f"the server: {words}", status=status if isinstance(status, int) else None
    )


def _closed() -> InferenceFailed:
    return InferenceFailed("the server: the provider was closed")


class _Answer:
    """A PieceSource: one request, read in a task of its own, so that leaving can end it at once."""

    def __init__(
        self, read: Callable[[], AsyncGenerator[Piece]], done: Callable[[_Answer], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._pieces: deque[Piece] = deque()
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._error: InferenceFailed | None = None
        self._done = done
        self._task = self._loop.create_task(self._read(read))
        # Not in the task: one that is cancelled before its first step runs nothing.
        self._task.add_done_callback(self._end)

    async def take(self) -> Piece | None:
        while not self._pieces:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return None
            self._news.clear()
            await self._news.wait()
        self._room.set()
        return self._pieces.popleft()

    def leave(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and the connection with it
            self._loop.call_soon_threadsafe(self._task.cancel)

    def fail(self, error: InferenceFailed) -> None:
        """The provider is closed: the reader gets this after the pieces that are here."""
        self._error = self._error or error

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    async def _read(self, read: Callable[[], AsyncGenerator[Piece]]) -> None:
        try:
            async with contextlib.aclosing(read()) as pieces:
                async for piece in pieces:
                    self._pieces.append(piece)
                    self._news.set()
                    while len(self._pieces) >= PIECES_MAX:
                        self._room.clear()
                        await self._room.wait()
        except InferenceFailed as error:
            self._error = self._error or error

    def _end(self, _task: asyncio.Task[None]) -> None:
        self._ended = True
        self._news.set()
        self._done(self)
