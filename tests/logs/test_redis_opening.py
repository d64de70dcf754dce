"""Opening a Redis log: what cannot work is said at once, in words that help, and without any secret."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from opened_log import wait_for_removal
from runstream.conformance.check import collect, ending, notes, subscribe
from runstream.errors import InvalidURL, LogUnavailable, NotALog, RunstreamError
from runstream.log import LeaseClaim, Producer
from runstream.logs import open_log
from runstream.logs.redis import RedisLog
from runstream.retention import Retention
from services.engine import free_port
from services.impostor import impostor
from services.redis import RedisServer, running_redis

PASSWORD = "s3cret/word"
QUOTED = "s3cret%2Fword"


def refused(url: str, error: type[RunstreamError], match: str) -> str:
    """The message with which opening is refused."""
    with pytest.raises(error, match=match) as caught:
        open_log(url)
    assert "s3cret" not in str(caught.value)
    return str(caught.value)


def opened(url: str) -> RedisLog:
    log = open_log(url)
    assert isinstance(log, RedisLog)
    return log


def answering(answers: dict[bytes, bytes]) -> AbstractContextManager[int]:
    """The port of a server that answers a command (the key is in it) as told, and others with "OK"."""

    def answer(heard: bytes) -> bytes:
        commands = re.split(rb"(?:^|(?<=\n))\*\d+\r\n", heard)[1:]
        told = ([text for word, text in answers.items() if word in one] for one in commands)
        return b"".join(texts[0] if texts else b"+OK\r\n" for texts in told)

    return impostor(answer)


@pytest.fixture
def locked_redis(tmp_path: Path) -> Generator[RedisServer]:
    folder = tmp_path / "redis"
    folder.mkdir()
    with running_redis(folder, password=PASSWORD) as server:
        server.url = server.url.replace(PASSWORD, QUOTED)
        yield server


def test_nobody_who_listens_is_said(redis_url: str) -> None:
    refused(f"redis://127.0.0.1:{free_port()}/0", LogUnavailable, "cannot be reached")


@pytest.mark.parametrize(
    "url", ["redis://", "redis:/0", "redis://h/name", "redis://h:x/0", "redis://h/-1"]
)
def test_what_is_no_url_of_a_redis_is_refused(url: str) -> None:
    refused(url, InvalidURL, "Redis URL")


@pytest.mark.parametrize(
    "option", ["colour=red", "require=luck", "retention=soon", "prefix=", "prefix=a{b"]
)
def test_options_that_cannot_be_are_refused(redis_url: str, option: str) -> None:
    refused(f"{redis_url}?{option}", InvalidURL, option.partition("=")[0])


def test_a_wrong_password_is_told_without_showing_it(locked_redis: RedisServer) -> None:
    for secret in ("", ":s3cret-wrong@", "nobody:s3cret@"):
        url = f"redis://{secret}127.0.0.1:{locked_redis.port}/0"
        refused(url, InvalidURL, "user name or password")


def test_a_database_that_is_not_there_is_told(redis_url: str) -> None:
    refused(redis_url.removesuffix("/0") + "/99", InvalidURL, "no such database")


def test_databases_and_prefixes_of_one_server_are_logs_of_their_own(redis_url: str) -> None:
    async def check() -> None:
        for number, other in enumerate(
            (redis_url.removesuffix("/0") + "/7", f"{redis_url}?prefix=mine")
        ):
            one, two = (
                await asyncio.to_thread(opened, redis_url),
                await asyncio.to_thread(opened, other),
            )
            await one.open(f"own-{number}", producer=None, workflow="w")
            assert f"own-{number}" not in {info.run_id for info in await two.list()}
            await one.aclose()
            await two.aclose()

    asyncio.run(check())


def test_what_is_no_redis_is_told() -> None:
    with answering({b"": b"HTTP/1.1 400 Bad Request\r\n\r\n"}) as port:
        refused(f"redis://127.0.0.1:{port}/0", NotALog, "is no Redis")


def test_a_version_that_is_too_old_is_told() -> None:
    info = b"# Server\r\nredis_version:5.0.14\r\nrun_id:1\r\n"
    answers = {b"INFO\r\n": b"$%d\r\n%s\r\n" % (len(info), info)}
    with answering(answers) as port:
        refused(f"redis://127.0.0.1:{port}/0", NotALog, "5.0.14 is too old")


def test_a_log_of_another_version_is_left_alone(redis_server: RedisServer) -> None:
    redis_server.call("SET", "runstream:{/}:version", "runstream 99")
    refused(redis_server.url, NotALog, "runstream 99")
    redis_server.call("DEL", "runstream:{/}:version")
    redis_server.call("LPUSH", "runstream:{/}:version", "of somebody else")
    refused(redis_server.url, NotALog, "not of this version")
    opened(f"{redis_server.url}?prefix=ours").close()


def test_a_replica_is_refused(redis_server: RedisServer) -> None:
    redis_server.call("REPLICAOF", "127.0.0.1", str(free_port()))
    refused(redis_server.url, LogUnavailable, "replica")


@pytest.mark.parametrize(
    ("settings", "promise"),
    [
        ({"appendfsync": "everysec"}, "up to two seconds"),
        ({"appendfsync": "no"}, "had not written yet"),
        ({"appendonly": "no"}, "last snapshot"),
        ({"maxmemory": "1gb", "maxmemory-policy": "allkeys-lru"}, "evicts"),
    ],
    ids=["everysec", "no", "no-file", "evicts"],
)
def test_a_server_that_may_lose_appends_says_so_and_is_refused_where_they_must_last(
    redis_server: RedisServer, settings: dict[str, str], promise: str
) -> None:
    durable = f"{redis_server.url}?require=durable"
    log = opened(durable)
    assert "survives a power cut" in log.promise
    log.close()
    for name, value in settings.items():
        assert redis_server.call("CONFIG", "SET", name, value) == "+OK"
    refused(durable, InvalidURL, promise)
    log = opened(redis_server.url)
    assert promise in log.promise
    log.close()


async def test_a_password_is_in_no_log_error_or_repr(
    locked_redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    log = await asyncio.to_thread(opened, locked_redis.url)
    shown = [repr(log), str(log), *map(repr, vars(log).values())]
    await log.open("r", producer=None, workflow="w")
    await asyncio.to_thread(locked_redis.kill)
    # How long it goes on trying is not the point.
    monkeypatch.setattr("runstream.logs.redis_line.CALL_S_MAX", 0.5)
    with pytest.raises(LogUnavailable) as caught:
        await log.info("r")
    await log.aclose()
    with pytest.raises(LogUnavailable) as again:
        await asyncio.to_thread(open_log, locked_redis.url)
    shown += [str(caught.value), repr(caught.value), repr(again.value), caplog.text]
    assert not [text for text in shown if "s3cret" in text]


async def test_the_rights_in_the_documentation_are_enough(redis_server: RedisServer) -> None:
    page = (Path(__file__).parents[2] / "docs" / "redis.md").read_text()
    command = re.search(r"^ACL SETUSER .*?(?=^```)", page, re.MULTILINE | re.DOTALL)
    assert command is not None
    told = await asyncio.to_thread(redis_server.call, *command[0].split())
    assert told == "+OK", told
    url = redis_server.url.replace("//", "//stream:PASSWORD@")
    log = await asyncio.to_thread(opened, f"{url}?require=durable")
    await log.open("root", producer="p", workflow="w", claim=LeaseClaim(60.0))
    await log.open("child", producer=None, workflow="w", parent_run_id="root")
    following = asyncio.ensure_future(collect(subscribe(log, "child")))
    await log.append("child", notes("child", [1]), producer=Producer("p", 1, 1))
    await log.retain("root", Retention(records=5))
    await log.trim("root", through=0)
    await log.renew("root", owner="p", epoch=1)
    await log.append("root", [ending("child"), ending("root")], final=True)
    assert [record.kind for record in await following] == ["note", "run.completed"]
    assert [info.run_id for info in await log.list(status="completed")] == ["child", "root"]
    await log.remove("root")
    assert not await log.list()
    await log.aclose()
    log = await asyncio.to_thread(opened, f"{url}?retention=1s")
    await log.open("old", producer=None, workflow="w")
    await log.append("old", [ending("old")], final=True)
    await wait_for_removal(log, "old")
    await log.aclose()
