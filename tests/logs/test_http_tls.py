"""A server behind TLS: its certificate is verified, always, against the system's authorities or yours."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from certificate import make_certificate
from runstream import attach, connect, drain, process, publish
from runstream.errors import LogUnavailable
from server_process import running_server

# Making a key and starting a server take their time.
pytestmark = pytest.mark.allow_blocking


async def test_a_certificate_is_trusted_only_if_its_authority_is(tmp_path: Path) -> None:
    cert, key = make_certificate(tmp_path)
    options = ("--tls-cert", str(cert), "--tls-key", str(key))
    with running_server(tmp_path, f"sqlite:{tmp_path}/events.db", *options) as server:
        async with connect(server.url) as streams:
            with pytest.raises(LogUnavailable, match="certificate"):
                await streams.list_runs()
        trusting = f"{server.url}?ca={cert}"
        async with connect(trusting) as streams:
            await streams.log.open("r1", producer=None, workflow="nightly")
            async with attach("r1", url=trusting):
                publish({"n": 1})
                assert await drain()
            records = [r async for r in streams.subscribe("r1", follow=False)]
            assert [record.data for record in records] == [{"n": 1}]
        process.close_publishers()


async def test_a_connection_that_is_lost_in_the_middle_of_the_handshake_is_told() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, connect(url) as streams:
        with pytest.raises(LogUnavailable, match="cannot connect: the connection was lost"):
            await streams.list_runs()
