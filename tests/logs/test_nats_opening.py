"""Opening a NATS log: what cannot work is said at once, in words that help, and without any secret."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from runstream.errors import InvalidURL, LogUnavailable, NotALog, RunstreamError
from runstream.logs import open_log
from runstream.logs.nats import NatsLog
from services.engine import free_port
from services.impostor import impostor
from services.nats import NatsServer, running_nats

PASSWORD = "s3cret/word"
QUOTED = "s3cret%2Fword"


def refused(url: str, error: type[RunstreamError], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        open_log(url)
    assert "s3cret" not in str(caught.value)


def opened(url: str) -> NatsLog:
    log = open_log(url)
    assert isinstance(log, NatsLog)
    return log


def greeting(words: bytes) -> AbstractContextManager[int]:
    """The port of a server that says this, and answers each PING."""
    return impostor(lambda heard: b"PONG\r\n" if b"PING" in heard else b"", greeting=words)


@pytest.fixture
def locked_nats(tmp_path: Path) -> Generator[NatsServer]:
    with running_nats(tmp_path, "--user", "me", "--pass", PASSWORD) as server:
        yield server


def test_nobody_who_listens_is_said() -> None:
    refused(f"nats://127.0.0.1:{free_port()}", LogUnavailable, "cannot be reached")


@pytest.mark.parametrize(
    "url", ["nats://", "nats://h:x", "nats://h,,i", "nats://h/two/names", "nats://h/na.me"]
)
def test_what_is_no_url_of_a_nats_is_refused(url: str) -> None:
    refused(url, InvalidURL, "server|name")


@pytest.mark.parametrize(
    "option",
    ["colour=red", "require=luck", "retention=soon", "replicas=0", "replicas=many"],
)
def test_options_that_cannot_be_are_refused(nats_url: str, option: str) -> None:
    refused(f"{nats_url}?{option}", InvalidURL, option.partition("=")[0])


def test_replicas_that_one_server_cannot_have_are_refused(nats_url: str) -> None:
    refused(f"{nats_url}/MANY?replicas=3", InvalidURL, "several replicas take several servers")


def test_a_wrong_password_or_token_is_told_without_showing_it(locked_nats: NatsServer) -> None:
    for secret in ("", "me:s3cret-wrong@", "s3cret-token@", f"nobody:{QUOTED}@"):
        url = f"nats://{secret}127.0.0.1:{locked_nats.port}"
        refused(url, InvalidURL, "user name or password, or the token")
    opened(f"nats://me:{QUOTED}@127.0.0.1:{locked_nats.port}").close()


def test_a_server_without_jetstream_is_told_how_to_have_it(tmp_path: Path) -> None:
    with running_nats(tmp_path, jetstream=False) as server:
        refused(server.url, LogUnavailable, "start it with -js")


def test_what_is_no_nats_is_told() -> None:
    with greeting(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        refused(f"nats://127.0.0.1:{port}", NotALog, "is no NATS")


def test_a_version_that_is_too_old_is_told() -> None:
    info = {"server_id": "x", "version": "2.8.4", "max_payload": 1048576, "jetstream": True}
    with greeting(f"INFO {json.dumps(info)}\r\n".encode()) as port:
        refused(f"nats://127.0.0.1:{port}", NotALog, r"too old: 2\.8\.4, 2\.9 or newer")


def test_a_stream_of_somebody_else_is_left_alone(nats_server: NatsServer) -> None:
    nats_server.api("STREAM.CREATE.RUNSTREAM", {"name": "RUNSTREAM", "subjects": ["theirs.>"]})
    refused(nats_server.url, NotALog, "RUNSTREAM is not one of ours: choose another name")
    opened(f"{nats_server.url}/OURS").close()


def test_a_stream_that_would_forget_is_refused(nats_server: NatsServer) -> None:
    opened(nats_server.url).close()
    config = nats_server.api("STREAM.INFO.RUNSTREAM")["config"] | {"max_age": 10**12}
    nats_server.api("STREAM.UPDATE.RUNSTREAM", config)
    refused(nats_server.url, NotALog, "max_age")


def test_one_server_is_not_durable_and_says_so(nats_url: str) -> None:
    refused(f"{nats_url}?require=durable", InvalidURL, "two minutes")
    log = opened(nats_url)
    assert "survives a crash of the server" in log.promise
    log.close()


async def test_names_of_one_server_are_logs_of_their_own(nats_url: str) -> None:
    one, two = [await asyncio.to_thread(opened, f"{nats_url}{path}") for path in ("", "/OTHER")]
    await one.open("own", producer=None, workflow="w")
    assert not await two.list()
    for log in (one, two):
        await log.aclose()


async def test_a_password_is_in_no_log_error_or_repr(
    locked_nats: NatsServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    url = f"nats://me:{QUOTED}@127.0.0.1:{locked_nats.port}"
    log = await asyncio.to_thread(opened, url)
    shown = [repr(log), str(log), *map(repr, vars(log).values())]
    await log.open("r", producer=None, workflow="w")
    await asyncio.to_thread(locked_nats.kill)
    # How long it goes on trying is not the point.
    monkeypatch.setattr("runstream.logs.nats_patience.ANSWER_S_MAX", 0.5)
    with pytest.raises(LogUnavailable) as caught:
        await log.info("r")
    await log.aclose()
    with pytest.raises(LogUnavailable) as again:
        await asyncio.to_thread(open_log, url)
    shown += [str(caught.value), repr(caught.value), repr(again.value), caplog.text]
    assert not [text for text in shown if "s3cret" in text]
