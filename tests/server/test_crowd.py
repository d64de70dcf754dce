"""A crowd of appends: the threads of a server wait their turn while it is there, and only then."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from programs import wait_until
from runstream.server.crowd import CROWD_APPENDS, LOOK_S, Crowd
from server_process import ServerProcess, running_server

# Guards against hanging.
PATIENCE_S = 30.0
REQUESTS = 4 * CROWD_APPENDS
SENDERS = 8


@pytest.fixture
def thread() -> Generator[int]:
    """A thread of this process that only waits."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    assert thread.native_id is not None
    yield thread.native_id
    over.set()
    thread.join()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.01)


async def let_wait(thread: int, crowd: Crowd) -> None:
    """Have appends come until that thread is seen to wait its turn."""
    async with asyncio.timeout(PATIENCE_S):
        while os.sched_getscheduler(thread) != os.SCHED_BATCH:
            for _ in range(CROWD_APPENDS):
                crowd.comes()
            await asyncio.sleep(0.01)


async def test_threads_wait_their_turn_while_there_is_a_crowd(thread: int) -> None:
    await let_wait(thread, Crowd())
    assert os.sched_getscheduler(threading.get_native_id()) == os.SCHED_OTHER
    await until(lambda: os.sched_getscheduler(thread) == os.SCHED_OTHER)


async def test_a_few_appends_change_nothing(thread: int) -> None:
    crowd = Crowd()
    for _ in range(CROWD_APPENDS - 1):
        crowd.comes()
    await asyncio.sleep(2 * LOOK_S)  # it has looked by then
    assert os.sched_getscheduler(thread) == os.SCHED_OTHER


async def test_a_thread_whose_policy_somebody_has_chosen_keeps_it(thread: int) -> None:
    os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    crowd = Crowd()
    for _ in range(CROWD_APPENDS):
        crowd.comes()
    await asyncio.sleep(2 * LOOK_S)  # it has looked by then
    assert os.sched_getscheduler(thread) == os.SCHED_IDLE


async def test_a_thread_that_ends_in_the_crowd_is_in_nobody_s_way(thread: int) -> None:
    over = threading.Event()
    other = threading.Thread(target=over.wait)
    other.start()
    await let_wait(thread, Crowd())
    over.set()
    await asyncio.to_thread(other.join)
    await until(lambda: os.sched_getscheduler(thread) == os.SCHED_OTHER)


async def test_a_thread_that_another_starts_in_the_crowd_does_not_wait_its_turn_for_ever() -> None:
    started: list[int] = []
    begin, over = threading.Event(), threading.Event()

    def start_another() -> None:
        begin.wait()
        other = threading.Thread(target=over.wait)
        other.start()
        assert other.native_id is not None
        started.append(other.native_id)
        other.join()

    thread = threading.Thread(target=start_another)
    thread.start()
    assert thread.native_id is not None
    try:
        await let_wait(thread.native_id, Crowd())
        begin.set()
        await until(lambda: bool(started))
        await until(lambda: os.sched_getscheduler(started[0]) == os.SCHED_OTHER)
    finally:
        begin.set()
        over.set()
        await asyncio.to_thread(thread.join)


def policies(pid: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            found[int(task.name)] = os.sched_getscheduler(int(task.name))
    return found


def requests(producer: str) -> bytes:
    """Many small appends, one behind the other on one connection."""
    sent: list[bytes] = []
    for number in range(1, REQUESTS + 1):
        event = {"kind": "tick", "data": number}
        append = {"producer": {"id": producer, "epoch": 0, "number": number}, "events": [event]}
        body = json.dumps(append).encode()
        last = b"connection: close\r\n" if number == REQUESTS else b""
        sent.append(
            b"POST /v1/runs/r/events HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            b"%bcontent-length: %d\r\n\r\n%b" % (last, len(body), body)
        )
    return b"".join(sent)


def test_a_server_that_gets_many_appends_lets_its_threads_finish(server: ServerProcess) -> None:
    assert server.call("PUT", "/v1/runs/r", {"workflow": "w"}).status == 201
    pid = server.pid
    seen = threading.Event()

    def send(who: int) -> int:
        """On one connection after the other; how many."""
        number = 0
        while not seen.is_set():
            server.send_raw(requests(f"p{who}.{number}"))
            number += 1
        return number

    # (Many at once share commits: a lone one would wait for a slow disk instead of being a crowd.)
    with ThreadPoolExecutor(SENDERS) as pool:
        try:
            sending = [pool.submit(send, who) for who in range(SENDERS)]
            deadline = time.monotonic() + PATIENCE_S
            while os.SCHED_BATCH not in policies(pid).values():
                assert time.monotonic() < deadline
            assert policies(pid)[pid] == os.SCHED_OTHER
        finally:
            seen.set()
        sent = sum(each.result() for each in sending)
    wait_until(lambda: set(policies(pid).values()) == {os.SCHED_OTHER}, "the crowd has gone")
    assert server.call("GET", "/v1/runs/r").json["last_seq"] == sent * REQUESTS


FLOW = """
from runstream import pipeline


@pipeline
async def nothing() -> None:
    pass
"""


def test_a_server_that_runs_workflows_leaves_their_threads_alone(
    tmp_path: Path, sqlite_url: str
) -> None:
    """What a step's thread starts, another program too, would wait its turn for as long as it lives."""
    (tmp_path / "flow.py").write_text(FLOW)
    with running_server(tmp_path, sqlite_url, f"{tmp_path}/flow.py") as server:
        assert server.call("PUT", "/v1/runs/r", {"workflow": "w"}).status == 201

        def send() -> None:
            for number in range(10):
                server.send_raw(requests(f"p{number}"))

        sender = threading.Thread(target=send)
        sender.start()
        while sender.is_alive():
            assert os.SCHED_BATCH not in policies(server.pid).values()
            sender.join(LOOK_S / 10)
