"""The line to NATS: one connection, and the few requests of JetStream that a log needs.

Whatever goes wrong becomes an error of ours. Connection and requests are in this one file, because a
request shares the connection's deadline, and its losses.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from ..errors import InvalidURL, LogClosed, LogUnavailable, NotALog
from .nats_patience import ANSWER_S_MAX, Patience
from .nats_refusals import WRONG_LAST_SEQUENCE, NotFound, StreamGone, Unsure, refusal

# In a cluster a question is lost with the server that was to answer it, and is asked again; so it is where
# nobody answers because the stream is not there.
ASK_AGAIN_S: Final = 1.0
CONNECT_S_MAX: Final = 5.0
# Each server is tried so often when a log is opened: one that is just starting takes a moment.
TRIES: Final = 4
# After a lost connection it is made again, so often, for ever.
RECONNECT_S: Final = 0.25
# What waits to be sent while the connection is lost; then callers are told at once.
UNSENT_BYTES_MAX: Final = 8 * 1024 * 1024
# Messages that are fetched at once, and their bytes: more than this would hold up the other callers.
FETCHED_MAX: Final = 2048
FETCHED_BYTES_MAX: Final = 4 * 1024 * 1024
# A fetch takes milliseconds. One that does not work is not tried again for a while.
FETCH_S_MAX: Final = 2.0
FETCH_AGAIN_S: Final = 30.0
# Messages that are dropped at once, where it is done one by one.
DROPPED_TOGETHER: Final = 64
# A server forgets by itself what a fetch that was cut off has left there.
FORGOTTEN_NS: Final = 5_000_000_000

_EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
_VERSION_MIN: Final = (2, 9, 0)
# Before, a replica that comes back drops all that is older than a purge, of whatever subject that was.
_PURGE_SAFE: Final = (2, 9, 18)
_NO_RESPONDERS: Final = "503"
# Where the sequence is in what a consumer's messages are to be acknowledged to.
_ACK_SEQUENCE: Final = 5


class Stored(msgspec.Struct, frozen=True):
    """A message of a JetStream stream."""

    seq: int
    subject: str
    data: bytes


class Line:
    """One connection of this process. In one event loop only."""

    def __init__(self, servers: list[str], shown: str, options: dict[str, Any]) -> None:
        self._servers, self._shown, self._options = servers, shown, options
        self._client = Client()
        self.patience = Patience(shown)
        self._is_connecting = True
        # What went wrong last while it was connecting.
        self._said = ""
        self._failures = 0
        self._fetch_again = 0.0
        self._is_cluster = False
        # The streams have several replicas (see nats_chain).
        self.is_replicated = False
        # What was asked and is not answered yet.
        self._inbox = f"_INBOX.{secrets.token_hex(12)}"
        self._asked = 0
        self._open: dict[str, asyncio.Future[Msg]] = {}
        # When somebody was last answered by who stores a stream.
        self._answered_at: dict[str, float] = {}

    @property
    def payload_bytes_max(self) -> int:
        """What the server takes in one message."""
        return self._client.max_payload

    async def connect(self) -> None:
        """Raises LogUnavailable, NotALog."""
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await self._client.connect(
                    servers=self._servers,
                    name="runstream",
                    connect_timeout=2,
                    allow_reconnect=True,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_S,  # type: ignore[arg-type] # pyright: ignore[reportArgumentType] - slept
                    pending_size=UNSENT_BYTES_MAX,
                    error_cb=self._note_error,
                    disconnected_cb=self._note_loss,
                    **self._options,
                )
                await self._client.subscribe(  # pyright: ignore[reportUnknownMemberType] - of `cb`
                    f"{self._inbox}.*", cb=self._hear
                )
        except _Refused:
            await self.close()
            raise InvalidURL(
                f"NATS at {self._shown} refuses the user name or password, or the token: they belong into "
                "the URL, percent-encoded"
            ) from None
        except (nats.errors.Error, OSError, TimeoutError, ValueError, ssl.SSLError) as error:
            await self.close()
            if "expecting INFO" in self._said or isinstance(error, ValueError):
                raise NotALog(f"what answers at {self._shown} is no NATS") from None
            raise LogUnavailable(
                f"NATS at {self._shown} cannot be reached: {self._said or _words(error)}"
            ) from None
        self._is_connecting = False
        info: dict[str, Any] = self._client._server_info  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - told nowhere else
        self._is_cluster = bool(info.get("cluster"))
        version = self._client.connected_server_version
        found = (version.major, version.minor, version.patch)
        if found < _VERSION_MIN:
            await self.close()
            raise NotALog(
                f"NATS at {self._shown} is too old: {'.'.join(map(str, found))}, 2.9 or newer is needed"
            )

    async def _note_error(self, error: Exception) -> None:
        """(Later on each caller is told by its own call.)"""
        if not self._client.is_connected:
            # The client lets go of a connection that did not come about, and leaves it open.
            transport = self._client._transport  # noqa: SLF001 # pyright: ignore[reportPrivateUsage] - nobody else has it
            if transport is not None:
                transport.close()  # type: ignore[no-untyped-call]
        if self._is_connecting:
            self._said = _words(error)
            if "authorization" in self._said.lower() or "authentication" in self._said.lower():
                raise _Refused  # trying again does not help
            self._failures += 1
            if self._failures >= TRIES * len(self._servers):
                raise error

    async def _note_loss(self) -> None:
        """What was asked on a connection that is lost is not answered any more."""
        for done in self._open.values():
            if not done.done():
                done.set_exception(Unsure())

    async def _hear(self, message: Msg) -> None:
        self.patience.heard()
        asked = self._open.get(message.subject.rpartition(".")[2])
        if asked is not None and not asked.done():
            asked.set_result(message)

    async def _request(
        self,
        subject: str,
        data: bytes,
        headers: dict[str, str] | None = None,
        answer_s: float = ANSWER_S_MAX,
    ) -> Msg:
        """Ask, and wait for the answer; raises `Unsure` at once when the connection is lost meanwhile.

        (The client's own `request` costs twice the time, and cannot tell of the loss.)
        """
        self._asked += 1
        token = str(self._asked)
        done: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._open[token] = done
        try:
            async with asyncio.timeout(answer_s):
                await self._client.publish(
                    subject, data, reply=f"{self._inbox}.{token}", headers=headers
                )
                message = await done
        finally:
            del self._open[token]
        if not message.data and (message.headers or {}).get("Status") == _NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        return message

    async def _look(self, subject: str, data: bytes) -> Msg:
        """Ask what can be asked again: waits for a connection that is being made again."""
        deadline = time.monotonic() + ANSWER_S_MAX
        answer_s = ASK_AGAIN_S if self._is_cluster else ANSWER_S_MAX
        while True:
            await self._connected(deadline)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise self.patience.over()
            with contextlib.suppress(Unsure, TimeoutError):
                return await self._request(subject, data, answer_s=min(answer_s, left_s))

    async def _connected(self, deadline: float) -> None:
        """Wait for a connection that is being made again, until the deadline at most."""
        while not self._client.is_connected and time.monotonic() < deadline:
            if self._client.is_closed:
                raise LogClosed(f"the connection to NATS at {self._shown} is closed")
            await asyncio.sleep(RECONNECT_S / 10)

    async def close(self) -> None:
        try:
            await self._client.close()
        except (nats.errors.Error, OSError):
            return

    async def api(self, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request to JetStream's API; its answer.

        Raises:
            StreamGone, NotALog, LogUnavailable
        """
        data = b"" if body is None else json.dumps(body).encode()
        try:
            message = await self._look(f"$JS.API.{name}", data)
        except nats.errors.NoRespondersError as error:
            raise LogUnavailable(
                f"NATS at {self._shown} has no JetStream (now): start it with -js"
            ) from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error
        answer: dict[str, Any] = json.loads(message.data)
        if "error" in answer:
            raise refusal(answer["error"], self._shown)
        return answer

    async def store(self, subject: str, data: bytes, *, expected: int | None) -> int | None:
        """Store a message behind message `expected` of its subject (0: as its first one); its sequence,
        or None if another one came first. With several replicas that is not certain: look.

        Raises:
            Unsure: no answer came.
            StreamGone, LogUnavailable: it is not stored.
        """
        # Several replicas do not check the 0 before they store; and then, in servers before 2.10.19, the
        # refusal shifts the sequences of a replica that is killed and comes back.
        is_checked = expected is not None and (expected or not self.is_replicated)
        headers = {_EXPECTED: str(expected)} if is_checked else None
        if not self._client.is_connected:
            raise Unsure
        try:
            message = await self._request(subject, data, headers)
        except nats.errors.NoRespondersError as error:
            raise StreamGone(f"NATS at {self._shown} stores nothing (now)") from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unsure from error
        answer = json.loads(message.data)
        problem = answer.get("error")
        if problem is None:
            return int(answer["seq"])
        if problem.get("err_code") in WRONG_LAST_SEQUENCE:
            return None
        raise refusal(problem, self._shown)

    async def last(self, stream: str, subject: str) -> Stored | None:
        """The newest message of a subject, as the stream's leader has it."""
        return await self._get(stream, {"last_by_subj": subject})

    async def at(self, stream: str, seq: int) -> Stored | None:
        """The message with that sequence."""
        return await self._get(stream, {"seq": seq})

    async def next(self, stream: str, subject: str, seq: int) -> Stored | None:
        """The first message of a subject with that sequence or a later one."""
        return await self._get(stream, {"seq": seq, "next_by_subj": subject})

    async def fetch(self, stream: str, subject: str, seq: int, count: int) -> list[Stored]:
        """As many messages of a subject as one gets quickly, from that sequence on, in order and at most
        `count`. None, where `next` has to be asked: there are no more, or it does not work now.
        """
        if self._is_cluster or time.monotonic() < self._fetch_again:
            return []
        try:
            async with asyncio.timeout(FETCH_S_MAX):
                return await self._fetch(stream, subject, seq, count)
        except StreamGone:
            raise
        except (LogUnavailable, TimeoutError):
            # In a cluster it takes more than one server; a single message takes only the leader.
            self._fetch_again = time.monotonic() + FETCH_AGAIN_S
            return []

    async def _fetch(self, stream: str, subject: str, seq: int, count: int) -> list[Stored]:
        config = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": seq,
            "filter_subject": subject,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": FORGOTTEN_NS,
            "num_replicas": 1,
            "mem_storage": True,
        }
        made = await self.api(
            f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config}
        )
        count = min(count, FETCHED_MAX, int(made.get("num_pending", 0)))
        found: list[Stored] = []

        done: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        async def hear(message: Msg) -> None:
            # $JS.ACK.stream.consumer.deliveries.sequence.…, and nothing where there are no more
            words = message.reply.split(".")
            if len(words) > _ACK_SEQUENCE:
                found.append(Stored(int(words[_ACK_SEQUENCE]), message.subject, message.data))
            if (len(words) <= _ACK_SEQUENCE or len(found) >= count) and not done.done():
                done.set_result(message)

        if not count:
            return found
        wish = {"batch": count, "no_wait": True, "max_bytes": FETCHED_BYTES_MAX}
        self._asked += 1
        token = str(self._asked)
        # (A message comes under its own subject: it takes a subscription to tell whom it is for.)
        inbox = f"{self._inbox}.fetched.{token}"
        listening = await self.listen(inbox, hear)
        self._open[token] = done
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{made['name']}"
                await self._client.publish(subject, json.dumps(wish).encode(), reply=inbox)
                await done
        except (Unsure, nats.errors.Error, OSError, TimeoutError) as error:
            raise self._unavailable(error) from error
        finally:
            del self._open[token]
            with contextlib.suppress(nats.errors.Error, OSError):
                await listening.unsubscribe()
        await self.tell(
            f"$JS.API.CONSUMER.DELETE.{stream}.{made['name']}", b"", reply=f"{self._inbox}.none"
        )
        return found

    async def settle(self, stream: str) -> None:
        """When this returns, who answers for the stream knows all that was stored before: after a change
        of leaders it may take the new one a moment.
        """
        await self._drop(stream, 0)  # (there is none: all agree on nothing)

    async def purge(self, stream: str, subject: str, *, before: int | None = None) -> None:
        """Drop the messages of a subject, those below sequence `before` or all."""
        version = self._client.connected_server_version
        if self.is_replicated and (version.major, version.minor, version.patch) < _PURGE_SAFE:
            await self._drop_each(stream, subject, before)
            return
        body: dict[str, Any] = {"filter": subject}
        if before is not None:
            if before <= 1:
                return  # nothing is below the first; the server takes such a sequence for none, and drops all
            body["seq"] = before
        await self.api(f"STREAM.PURGE.{stream}", body)

    async def _drop_each(self, stream: str, subject: str, before: int | None) -> None:
        begin, found = 1, list[int]()
        while True:
            stored = await self.next(stream, subject, begin)
            if stored is not None and (before is None or stored.seq < before):
                found.append(stored.seq)
                begin = stored.seq + 1
                if len(found) < DROPPED_TOGETHER:
                    continue
            if not found:
                return
            await asyncio.gather(*(self._drop(stream, seq) for seq in found))
            found.clear()

    async def _drop(self, stream: str, seq: int) -> None:
        with contextlib.suppress(NotFound):
            await self.api(f"STREAM.MSG.DELETE.{stream}", {"seq": seq, "no_erase": True})

    async def listen(self, subject: str, heard: Callable[[Msg], Awaitable[None]]) -> Any:
        """Call `heard` with each message of a subject that somebody publishes from now on."""
        try:
            return await self._client.subscribe(  # pyright: ignore[reportUnknownMemberType] - of `cb`
                subject, cb=heard
            )
        except (nats.errors.Error, OSError) as error:
            raise self._unavailable(error) from error

    async def tell(self, subject: str, data: bytes, reply: str = "") -> None:
        """Publish without storing; whoever listens now hears it."""
        try:
            await self._client.publish(subject, data, reply=reply)
        except (nats.errors.Error, OSError):
            return  # a wake-up: readers look by themselves, too, a little later

    async def _get(self, stream: str, body: dict[str, Any]) -> Stored | None:
        if self._is_cluster:
            # Any replica answers the other way, one too that has just come back and misses some.
            return await self._get_of_leader(stream, body)
        message = await self._ask_direct(stream, json.dumps(body).encode())
        headers = message.headers or {}
        if headers.get("Status") is not None:
            return None
        return Stored(int(headers["Nats-Sequence"]), headers["Nats-Subject"], message.data)

    async def _ask_direct(self, stream: str, data: bytes) -> Msg:
        """Ask who stores a stream. (Asked by its API, nats-server 2.9.10 crashes if that is the moment in
        which it makes the stream.)
        """
        subject, deadline = f"$JS.API.DIRECT.GET.{stream}", time.monotonic() + ANSWER_S_MAX
        while time.monotonic() < deadline:
            await self._connected(deadline)
            try:
                message = await self._request(subject, data, answer_s=ASK_AGAIN_S)
            except (Unsure, TimeoutError, nats.errors.NoRespondersError):
                # Where there is no such stream nobody answers; this tells. (Among a thousand callers a
                # server is slow, and asking it even more makes it slower.)
                if self._answered_at.get(stream, 0.0) < time.monotonic() - ASK_AGAIN_S:
                    await self.api(f"STREAM.INFO.{stream}")
            except (nats.errors.Error, OSError) as error:
                raise self._unavailable(error) from error
            else:
                self._answered_at[stream] = time.monotonic()
                return message
        raise self.patience.over()

    async def _get_of_leader(self, stream: str, body: dict[str, Any]) -> Stored | None:
        try:
            answer = await self.api(f"STREAM.MSG.GET.{stream}", body)
        except NotFound:
            return None
        message = answer["message"]
        data = base64.b64decode(message.get("data", ""))
        return Stored(int(message["seq"]), message["subject"], data)

    def _unavailable(self, error: Exception) -> Exception:
        if isinstance(error, nats.errors.ConnectionClosedError):
            return LogClosed(f"the connection to NATS at {self._shown} is closed")
        return LogUnavailable(f"NATS at {self._shown} does not answer: {_words(error)}")


class _Refused(Exception):
    """The server knows nobody of that name, password or token."""


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
