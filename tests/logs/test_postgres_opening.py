"""Opening a PostgreSQL log: what is wrong is said at once, and no secret with it."""

from __future__ import annotations

import asyncio
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
from psycopg.conninfo import conninfo_to_dict

from opened_log import opened
from runstream.errors import InvalidURL, LogUnavailable, NotALog, RunstreamError
from runstream.logs import open_log
from runstream.logs.postgres import PostgresLog
from runstream.logs.postgres_url import parse
from runstream.record import Cursor, make_draft
from services.engine import free_port
from services.postgres import PASSWORD, USER, PostgresServer, running_postgres


def refused(url: str, kind: type[RunstreamError], says: str) -> None:
    """Opening fails in that way, and whatever is shown of it shows no password."""
    with pytest.raises(kind, match=says) as caught:
        open_log(url)
    error: BaseException | None = caught.value
    while error is not None:
        for secret in (PASSWORD, "p4ss%3Aw%2Frd", "s3cret"):
            assert secret not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__


def test_a_wrong_password_database_or_port_is_said_without_the_password(
    postgres_server: PostgresServer,
) -> None:
    server = postgres_server
    wrong = server.url_at(server.port, password="s3cret")
    refused(wrong, InvalidURL, "password authentication failed for user")
    absent = server.url_at(server.port, database="absent")
    refused(absent, InvalidURL, 'database "absent" does not exist')
    refused(server.url_at(free_port()), LogUnavailable, "127.0.0.1.*refused")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql://u:s3cret%@h/db", "special characters"),
        ("postgresql://u:s3cret@h/db?durability=none", "durability is power or process"),
        ("postgresql://u:s3cret@h/db?require=everything", "require is durable"),
        ("postgresql://u:s3cret@h/db?require=durable&durability=process", "exclude one another"),
        ("postgresql://u:s3cret@h/db?schema=Bad-Name", "small letters"),
        ("postgresql://u:s3cret@h/db?readers=0", "from 1 to 100"),
        ("postgresql://u:s3cret@h/db?retention=soon", "retention is a time"),
        ("postgresql://u:s3cret@h/db?colour=red", "unknown option 'colour'"),
        ("postgres-sql://u:s3cret@h/db", "no log for 'postgres-sql://h/db'"),
    ],
)
def test_an_impossible_url_is_refused_without_its_secrets(url: str, says: str) -> None:
    refused(url, InvalidURL, re.escape(says))


def test_libpqs_own_options_go_through() -> None:
    address = parse("postgresql://u:s3cret@h1,h2:5433/db", {"sslmode": "require", "schema": "x"})
    parameters = conninfo_to_dict(address.conninfo)
    assert parameters["host"] == "h1,h2"
    assert (parameters["sslmode"], address.schema) == ("require", "x")
    assert "s3cret" not in f"{address!r} {address}"


async def test_too_old_a_server_is_refused(postgres_server: PostgresServer) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        theirs = await asyncio.open_connection("127.0.0.1", postgres_server.port)

        async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            try:
                while part := await source.read(65536):
                    target.write(re.sub(rb"(?<=server_version\0)[^\0]+", _old, part))
            finally:  # also when the test ends first
                target.transport.abort()

        with suppress(OSError):
            await asyncio.gather(pump(reader, theirs[1]), pump(theirs[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        url = postgres_server.url_at(server.sockets[0].getsockname()[1])
        await asyncio.to_thread(refused, url, NotALog, "is PostgreSQL 9; Runstream needs 13")


def _old(version: re.Match[bytes]) -> bytes:
    return b"9.6".ljust(len(version[0]))


def test_tables_of_a_newer_version_or_another_program_are_left_alone(
    postgres_server: PostgresServer,
) -> None:
    server = postgres_server
    asyncio.run(open_log(server.url).aclose())
    server.sql("INSERT INTO runstream.migration (version) VALUES (99)")
    refused(server.url, NotALog, "version 99.*install a newer Runstream")
    server.sql("CREATE SCHEMA theirs")
    server.sql("CREATE TABLE theirs.producer (film text)")
    refused(f"{server.url}?schema=theirs", NotALog, "tables of another program")
    server.sql("CREATE SCHEMA rails")
    server.sql("CREATE TABLE rails.migration (name text)")
    refused(f"{server.url}?schema=rails", NotALog, "of another program")
    tables = server.sql("SELECT table_name FROM information_schema.tables WHERE table_schema IN"
                        " ('theirs', 'rails') ORDER BY 1")  # fmt: skip
    assert tables == [("migration",), ("producer",)]


def test_a_database_in_another_encoding_is_refused(postgres_server: PostgresServer) -> None:
    postgres_server.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'")
    url = postgres_server.url_at(postgres_server.port, database="latin")
    refused(url, NotALog, "encoded as LATIN1")


async def test_the_short_name_of_the_scheme_is_the_same_log(
    postgres_server: PostgresServer,
) -> None:
    short = postgres_server.url.replace("postgresql:", "postgres:")
    async with opened(postgres_server.url) as log, opened(short) as other:
        await log.open("run-1", producer=None, workflow="nightly")
        assert (await other.info("run-1")).workflow == "nightly"


def test_processes_that_open_an_empty_database_at_once_make_its_tables_once(
    postgres_server: PostgresServer,
) -> None:
    with ThreadPoolExecutor(6) as pool:
        logs = list(pool.map(open_log, [postgres_server.url] * 6))
    for log in logs:
        asyncio.run(log.aclose())
    assert postgres_server.sql("SELECT version FROM runstream.migration") == [(1,)]


async def test_a_role_that_may_only_read_reads(postgres_server: PostgresServer) -> None:
    server = postgres_server
    guest = server.url.replace(f"{USER}:", "guest:")

    async def sql(statement: str) -> None:
        await asyncio.to_thread(server.sql, statement)

    await sql(f"CREATE ROLE guest LOGIN PASSWORD '{PASSWORD}'")
    await asyncio.to_thread(refused, guest, LogUnavailable, "lacks a right.*permission denied")
    async with opened(server.url) as log:
        await log.open("run-1", producer=None, workflow="nightly")
        await log.append("run-1", [make_draft("run-1", "note", {"n": 1})])
    await sql("GRANT USAGE ON SCHEMA runstream TO guest")
    await sql("GRANT SELECT ON ALL TABLES IN SCHEMA runstream TO guest")
    async with opened(guest) as log:
        assert len((await log.read("run-1", after=Cursor(None, 0))).drafts) == 1
        with pytest.raises(LogUnavailable, match="lacks a right"):
            await log.append("run-1", [make_draft("run-1", "note", {"n": 2})])


# --- durability ----------------------------------------------------------------------------------


async def test_a_database_that_commits_lazily_is_told_to_commit_durably(
    postgres_server: PostgresServer,
) -> None:
    server = postgres_server
    await asyncio.to_thread(server.sql, "ALTER DATABASE events SET synchronous_commit = off")
    async with opened(f"{server.url}?require=durable") as log:
        await log.open("run-1", producer=None, workflow="nightly")
        await asyncio.to_thread(server.restart)
        assert (await log.info("run-1")).run_id == "run-1"


def test_what_makes_a_server_lose_records_is_told_and_refused_where_durability_is_required(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = postgres_server

    def warned(url: str, says: str) -> None:
        caplog.clear()
        refused(f"{url}?require=durable", InvalidURL, says)
        with caplog.at_level(logging.WARNING):
            log = open_log(url)
            asyncio.run(log.aclose())
        assert re.search(f"not to the server.*{says}", cast(PostgresLog, log).promise)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert re.search(says, caplog.text)
        assert PASSWORD not in caplog.text

    log = open_log(server.url)
    asyncio.run(log.aclose())
    assert cast(PostgresLog, log).promise.endswith("survives a power cut of the server")
    assert caplog.records == []
    server.sql("ALTER TABLE runstream.producer SET UNLOGGED")
    warned(server.url, "unlogged.*producer")
    server.sql("ALTER TABLE runstream.producer SET LOGGED")
    server.sql("ALTER SYSTEM SET full_page_writes = off")
    server.restart()
    warned(server.url, "full_page_writes is off")


def test_a_server_without_fsync_is_not_durable(postgres_cluster: Path) -> None:
    with running_postgres(postgres_cluster, "fsync=off") as server:
        refused(f"{server.url}?require=durable", InvalidURL, "fsync is off")


def test_who_chose_the_cheaper_promise_is_not_warned(
    postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        asyncio.run(open_log(f"{postgres_server.url}?durability=process").aclose())
    assert caplog.records == []
