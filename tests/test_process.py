"""What a process holds: one log and one publisher per URL, and an end without loss, noise or hanging."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runstream import Record, connect, process, publish, publisher_stats, start_run
from runstream.errors import InvalidURL, LogClosed, NotALog
from runstream.log import Log

PATIENCE_S = 30.0


@pytest.fixture(autouse=True)
def closed_publishers() -> Generator[None]:
    process.close_publishers()  # those of a test before these, if it has left any
    yield
    process.close_publishers()


def our_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("runstream")}


def released(url: str, log: Log) -> None:
    asyncio.run(process.release_log(url, log))


# --- sharing -------------------------------------------------------------------------------------


def test_all_users_of_an_embedded_log_share_one_until_the_last_has_gone(sqlite_url: str) -> None:
    first, second = process.acquire_log(sqlite_url), process.acquire_log(sqlite_url)
    assert first is second
    released(sqlite_url, first)
    asyncio.run(second.list())
    released(sqlite_url, second)
    with pytest.raises(LogClosed):
        asyncio.run(second.list())
    assert not process.this_process().logs


def test_a_file_has_one_log_however_its_url_is_spelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    urls = ["sqlite:events.db", f"sqlite:{tmp_path}/events.db", f"sqlite://{tmp_path}/events.db"]
    logs = [process.acquire_log(url) for url in urls]
    assert len(set(map(id, logs))) == 1
    for url, log in zip(urls, logs, strict=True):
        released(url, log)
    assert not process.this_process().logs


def test_a_log_outlives_the_publishers_for_whoever_still_reads_it(sqlite_url: str) -> None:
    with connect(sqlite_url) as streams:
        with start_run("w", url=sqlite_url) as run:
            pass
        assert process.close_publishers()
        assert streams.info(run.run_id).status == "completed"
        with start_run("w", url=sqlite_url) as again:
            pass
        assert streams.info(again.run_id).status == "completed"


def test_a_publisher_outlives_whoever_read_its_log(sqlite_url: str) -> None:
    with start_run("w", url=sqlite_url) as run:
        with connect(sqlite_url) as streams:
            assert streams.info(run.run_id).status == "running"
        publish({"n": 1})
    assert publisher_stats().last_error is None


def test_many_threads_open_one_publisher(sqlite_url: str) -> None:
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(process.publisher, [sqlite_url] * 16))
    assert len(set(map(id, found))) == 1


def test_what_cannot_be_opened_leaves_nothing_behind(tmp_path: Path) -> None:
    no_log = tmp_path / "notes.txt"
    no_log.write_text("not a log at all" * 100)
    with pytest.raises(NotALog):
        process.publisher(f"sqlite:{no_log}")
    with pytest.raises(InvalidURL):
        process.publisher("gopher:x")
    assert not process.this_process().logs
    assert not process.this_process().publishers
    assert not our_threads()


# --- closing -------------------------------------------------------------------------------------


def test_after_closing_no_thread_of_ours_is_left(sqlite_url: str) -> None:
    for url in ("memory:", sqlite_url):
        with start_run("w", url=url) as run, connect(url) as streams:
            publish({"n": 1})
            assert streams.info(run.run_id).status == "running"
    assert our_threads()
    assert process.close_publishers()
    assert not our_threads()
    assert not process.this_process().logs


def test_closing_twice_and_closing_nothing_does_nothing() -> None:
    assert process.close_publishers()
    with start_run("w", url="memory:"):
        pass
    assert process.close_publishers()
    assert process.close_publishers()


def test_closing_from_many_threads_at_once_closes_once(sqlite_url: str) -> None:
    with start_run("w", url=sqlite_url):
        pass
    with ThreadPoolExecutor(4) as executor:
        closing = [executor.submit(process.close_publishers) for _ in range(4)]
        assert all(each.result(PATIENCE_S) for each in closing)
    assert not our_threads()


def test_the_counts_of_what_is_gone_are_kept(sqlite_url: str) -> None:
    before = publisher_stats()
    with start_run("w", url=sqlite_url):
        publish({"n": 1})
    process.close_publishers()
    assert publisher_stats().stored == before.stored + 3


# --- the interpreter's exit ----------------------------------------------------------------------


def ended(code: str, url: str, *, interrupt: bool = False) -> tuple[int, list[str], list[Record]]:
    """Run a script to its end: its status, the lines of its stderr, and the records of its run r1."""
    source = f"URL = {url!r}\n" + textwrap.dedent(code)
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as script:
        if interrupt:
            assert script.stdout is not None
            assert script.stdout.readline() == "ready\n"
            script.send_signal(signal.SIGINT)
        try:
            _, stderr = script.communicate(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            script.kill()
            raise
    with connect(url) as streams:
        records = list(streams.subscribe("r1", follow=False))
    assert [record.seq for record in records] == list(range(1, len(records) + 1))
    return script.returncode, stderr.splitlines(), records


def kinds(records: list[Record]) -> list[str]:
    return [record.kind for record in records]


def numbers(records: list[Record]) -> list[int]:
    return [record.data["n"] for record in records if record.kind == "event"]


def test_a_script_that_ends_inside_its_run_loses_nothing(sqlite_url: str) -> None:
    status, stderr, records = ended(
        """
        from runstream import publish, start_run
        start_run("w", url=URL, run_id="r1").__enter__()
        for n in range(3000): publish({"n": n})
        """,
        sqlite_url,
    )
    assert (status, stderr) == (0, [])
    assert numbers(records) == list(range(3000))


@pytest.mark.parametrize(
    ("leave", "status", "end"),
    [
        ("sys.exit()", 0, "run.completed"),
        ("sys.exit(3)", 3, "run.failed"),
        ("raise ValueError('no')", 1, "run.failed"),
        ("raise KeyboardInterrupt", 130, "run.cancelled"),
    ],
)
def test_however_a_script_leaves_its_run_the_run_ends(
    sqlite_url: str, leave: str, status: int, end: str
) -> None:
    got, _, records = ended(
        f"""
        import sys
        from runstream import publish, start_run
        with start_run("w", url=URL, run_id="r1"):
            publish({{"n": 1}})
            {leave}
        """,
        sqlite_url,
    )
    assert got in (status, -signal.SIGINT if status == 130 else status)
    assert kinds(records) == ["run.started", "event", end]


def test_ctrl_c_ends_the_run_of_async_code_as_cancelled(sqlite_url: str) -> None:
    status, _, records = ended(
        """
        import asyncio
        from runstream import publish, start_run
        async def main():
            async with start_run("w", url=URL, run_id="r1"):
                publish({"n": 1})
                print("ready", flush=True)
                await asyncio.Event().wait()
        asyncio.run(main())
        """,
        sqlite_url,
        interrupt=True,
    )
    assert status != 0
    assert kinds(records) == ["run.started", "event", "run.cancelled"]


def test_ctrl_c_ends_the_run_of_plain_code_as_cancelled(sqlite_url: str) -> None:
    status, _, records = ended(
        """
        import threading
        from runstream import publish, start_run
        with start_run("w", url=URL, run_id="r1"):
            publish({"n": 1})
            print("ready", flush=True)
            threading.Event().wait()
        """,
        sqlite_url,
        interrupt=True,
    )
    assert status != 0
    assert kinds(records) == ["run.started", "event", "run.cancelled"]


def test_leaving_an_attachment_by_exit_stores_what_was_published(sqlite_url: str) -> None:
    with start_run("w", url=sqlite_url, run_id="r1"):
        status, stderr, records = ended(
            """
            import sys
            from runstream import attach, publish
            with attach("r1", url=URL, step="train"):
                for n in range(1000): publish({"n": n})
                sys.exit(4)
            """,
            sqlite_url,
        )
    assert (status, stderr) == (4, [])
    assert numbers(records) == list(range(1000))


def test_an_unfinished_run_in_a_daemon_thread_does_not_hold_up_the_exit(sqlite_url: str) -> None:
    status, stderr, records = ended(
        """
        import threading
        from runstream import publish, start_run
        inside = threading.Event()
        def work():
            with start_run("w", url=URL, run_id="r1"):
                for n in range(100): publish({"n": n})
                inside.set()
                threading.Event().wait()
        threading.Thread(target=work, daemon=True).start()
        inside.wait()
        """,
        sqlite_url,
    )
    assert (status, stderr) == (0, [])
    assert numbers(records) == list(range(100))


def test_daemon_threads_that_go_on_publishing_do_not_hold_up_the_exit(sqlite_url: str) -> None:
    status, _, records = ended(
        """
        import itertools, threading
        from runstream import bind, publish, start_run, LogUnavailable, RunstreamError
        def work():
            try:
                for n in itertools.count(): publish({"n": n})
            except RunstreamError:
                pass
        run = start_run("w", url=URL, run_id="r1")
        run.__enter__()
        threads = [threading.Thread(target=bind(work), daemon=True) for _ in range(2)]
        for thread in threads: thread.start()
        threading.Event().wait(0.05)
        """,
        sqlite_url,
    )
    assert status == 0
    assert numbers(records)


def test_a_connection_that_was_never_closed_does_not_hold_up_the_exit(sqlite_url: str) -> None:
    status, stderr, _ = ended(
        """
        from runstream import connect, publish, start_run
        with start_run("w", url=URL, run_id="r1"): publish({"n": 1})
        streams = connect(URL).__enter__()
        following = iter(streams.subscribe("r1"))
        assert next(following).kind == "run.started"
        """,
        sqlite_url,
    )
    assert (status, stderr) == (0, [])


def test_what_an_exit_handler_publishes_is_stored(sqlite_url: str) -> None:
    status, stderr, records = ended(
        """
        import atexit
        from runstream import publish, start_run
        run = start_run("w", url=URL, run_id="r1")
        run.__enter__()
        atexit.register(lambda: run.__exit__(None, None, None))
        atexit.register(lambda: publish({"n": 1}))
        """,
        sqlite_url,
    )
    assert (status, stderr) == (0, [])
    assert kinds(records) == ["run.started", "event", "run.completed"]


def test_a_log_that_hangs_does_not_hold_up_the_exit_for_ever(sqlite_url: str) -> None:
    status, stderr, _ = ended(
        """
        import logging, sqlite3
        logging.basicConfig()
        from runstream import process, publish, start_run
        start_run("w", url=URL, run_id="r1").__enter__()
        process.wait_stored(30)
        # Another program sits on the file; it goes when it is killed with this one.
        rude = sqlite3.connect(URL.removeprefix("sqlite:"), isolation_level=None)
        rude.execute("BEGIN IMMEDIATE")
        for n in range(10): publish({"n": n})
        process.close_publishers(timeout=0.2)
        """,
        sqlite_url,
    )
    assert status == 0
    assert any("could not be stored" in line for line in stderr)
