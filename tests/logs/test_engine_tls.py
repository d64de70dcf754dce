"""Encrypted connections to a Redis and a PostgreSQL whose certificate nobody else trusts."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Generator
from pathlib import Path

import pytest

from certificate import make_certificate
from command_process import run_command
from runstream.conformance.check import collect, ending, notes, numbers_of, subscribe
from runstream.logs import open_log
from services.engine import free_port
from services.postgres import PostgresServer, running_postgres, server_user
from services.redis import RedisServer, running_redis


async def write_and_follow(url: str) -> None:
    """All connections of a log are used: those that write, read, and wake."""
    log = await asyncio.to_thread(open_log, url)
    async with asyncio.timeout(120.0):
        await log.open("r", producer=None, workflow="w")
        await log.append("r", notes("r", [0]))
        subscription = subscribe(log, "r")
        assert numbers_of(await collect(subscription, 1)) == [0]
        following = asyncio.ensure_future(collect(subscription))
        await log.append("r", notes("r", [1]))
        await log.append("r", [ending("r")], final=True)
        assert numbers_of((await following)[:-1]) == [1]
        await log.aclose()


def refusal(url: str) -> str:
    """What a process that cannot use a log says. (Of its own: asyncio closes what failed in the middle of a
    handshake only later.)
    """
    told = run_command(url, "ls")
    assert told.returncode == 4, told.stderr
    return told.stderr


# --- Redis ---------------------------------------------------------------------------------------


@pytest.fixture
def redis_tls(tmp_path: Path) -> Generator[tuple[RedisServer, str]]:
    """A Redis, and what follows `rediss://…@` in the URL of its log."""
    certificate, key = make_certificate(tmp_path)
    port = free_port()
    files = {"cert": certificate, "key": key, "ca-cert": certificate}
    options = [word for name, path in files.items() for word in (f"--tls-{name}-file", str(path))]
    options += ["--tls-port", str(port), "--tls-auth-clients", "no"]
    with running_redis(tmp_path, *options) as server:
        yield server, f"127.0.0.1:{port}/0?ca_file={certificate}"


async def test_a_redis_is_reached_encrypted_as_a_user_of_its_own(
    redis_tls: tuple[RedisServer, str],
) -> None:
    server, place = redis_tls
    said = await asyncio.to_thread(
        server.call, "ACL", "SETUSER", "me", "on", ">pass:word", "~*", "&*", "+@all"
    )
    assert said == "+OK"
    await write_and_follow(f"rediss://me:pass%3Aword@{place}")


@pytest.mark.parametrize("query", ["", "?ca_file=/not/there.pem"], ids=["unknown", "absent"])
def test_a_redis_whose_certificate_is_not_trusted_is_not_talked_to(
    redis_tls: tuple[RedisServer, str], query: str
) -> None:
    place = redis_tls[1].partition("?")[0]
    said = refusal(f"rediss://{place}{query}")
    assert "No such file" in said if query else "certificate verify failed" in said


@pytest.mark.parametrize("speaks_tls", [True, False])
def test_who_speaks_to_a_redis_with_tls_or_without_it_where_it_is_not_so_is_told(
    redis_tls: tuple[RedisServer, str], speaks_tls: bool
) -> None:
    server, place = redis_tls
    encrypted = place.partition("?")[0]
    url = server.url.replace("redis:", "rediss:") if speaks_tls else f"redis://{encrypted}"
    assert "cannot be reached" in refusal(url)


# --- PostgreSQL ----------------------------------------------------------------------------------


@pytest.fixture
def postgres_tls(postgres_cluster: Path) -> Generator[tuple[PostgresServer, Path]]:
    """A PostgreSQL, and its certificate."""
    certificate, key = make_certificate(postgres_cluster)
    user = server_user()
    if user is not None:
        shutil.chown(key, user)
    key.chmod(0o600)
    settings = ("ssl=on", f"ssl_cert_file={certificate}", f"ssl_key_file={key}")
    with running_postgres(postgres_cluster, *settings) as server:
        yield server, certificate


async def test_a_postgres_is_reached_encrypted(postgres_tls: tuple[PostgresServer, Path]) -> None:
    server, certificate = postgres_tls
    url = f"{server.url}?sslmode=verify-full&sslrootcert={certificate}"
    await write_and_follow(url)
    log = await asyncio.to_thread(open_log, url)
    used = (
        "SELECT DISTINCT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
        " WHERE application_name = 'runstream'"
    )
    assert await asyncio.to_thread(server.sql, used) == [(True,)]
    await log.aclose()


def test_a_postgres_whose_certificate_is_not_trusted_is_not_talked_to(
    postgres_tls: tuple[PostgresServer, Path],
) -> None:
    server, _ = postgres_tls
    assert "root certificate file" in refusal(f"{server.url}?sslmode=verify-full")


def test_a_postgres_without_tls_is_not_talked_to_where_it_is_wanted(postgres_url: str) -> None:
    assert "does not support SSL" in refusal(f"{postgres_url}?sslmode=require")
