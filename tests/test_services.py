"""The fixtures that start engines: what the tests of several logs rely on."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from services.engine import Engine, free_ports
from services.proxy import proxy_to
from services.redis import RedisServer


def test_an_engine_keeps_its_data_when_it_is_killed(redis_server: RedisServer) -> None:
    assert redis_server.call("SET", "key", "value") == "+OK"
    first = redis_server.pid
    redis_server.restart()
    assert redis_server.pid != first
    assert redis_server.call("GET", "key").endswith("value")


def test_a_paused_engine_answers_when_it_goes_on(redis_server: RedisServer) -> None:
    redis_server.pause()
    with pytest.raises(TimeoutError):
        redis_server.call("PING", timeout=0.1)
    redis_server.resume()
    assert redis_server.call("PING") == "+PONG"


def test_an_engine_s_children_are_told_while_they_come_and_go(tmp_path: Path) -> None:
    forever = "while :; do sleep 0 & sleep 0 & wait; done"
    engine = Engine(["sh", "-c", forever], tmp_path, lambda: True)
    engine.start()
    try:
        told = [engine.pids for _ in range(3000)]
    finally:
        engine.kill()
    assert {pids[0] for pids in told} == {engine.pid}
    assert any(len(pids) > 1 for pids in told)


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20


async def test_a_proxy_loses_the_reply_to_a_request_that_was_carried_out(
    redis_server: RedisServer,
) -> None:
    async with proxy_to(redis_server.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"PING\r\n")
        assert await reader.readline() == b"+PONG\r\n"
        proxy.lose_reply_to(b"marked")
        writer.write(b"SET marked 1\r\n")
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert proxy.lost.is_set()
        writer.close()
    assert (await asyncio.to_thread(redis_server.call, "GET", "marked")).endswith("1")


async def test_a_proxy_that_refuses_cuts_what_is_open_until_it_accepts(
    redis_server: RedisServer,
) -> None:
    async with proxy_to(redis_server.port) as proxy:
        for _ in range(2):
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"PING\r\n")
            assert await reader.readline() == b"+PONG\r\n"
            proxy.refuse()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            proxy.accept()
            writer.close()
        assert proxy.accepted == 2
