"""Lines to an SQLite file: nothing is open while the process forks, and everything goes on afterwards."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from runstream import connect, process, publish, start_run
from runstream.errors import LogUnavailable
from runstream.logs.sqlite_lines import Line, Lines

PATIENCE_S = 30.0


@pytest.fixture
def opener(tmp_path: Path) -> Callable[[], sqlite3.Connection]:
    return lambda: sqlite3.connect(tmp_path / "x.db", check_same_thread=False)


@pytest.fixture
def lines() -> Generator[Lines]:
    lines = Lines()
    yield lines
    lines.close()


def ask(line: Line) -> sqlite3.Connection:
    with line.used() as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        return connection


def test_a_line_keeps_its_connection(
    lines: Lines, opener: Callable[[], sqlite3.Connection]
) -> None:
    line = lines.add(opener)
    assert ask(line) is ask(line)


def test_a_pause_closes_and_the_next_use_opens_again(
    lines: Lines, opener: Callable[[], sqlite3.Connection]
) -> None:
    line = lines.add(opener)
    before = ask(line)
    assert lines.pause(PATIENCE_S)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        before.execute("SELECT 1")
    lines.resume()
    assert ask(line) is not before


def test_users_wait_for_the_end_of_a_pause(
    lines: Lines, opener: Callable[[], sqlite3.Connection]
) -> None:
    line = lines.add(opener)
    assert lines.pause(PATIENCE_S)
    with ThreadPoolExecutor(2) as threads:
        asking = threads.submit(ask, line)
        adding = threads.submit(lines.add, opener)
        assert not asking.done()
        assert not adding.done()
        lines.resume()
        asking.result(PATIENCE_S)
        ask(adding.result(PATIENCE_S))


def test_a_pause_that_cannot_be_leaves_everything_as_it_was(
    lines: Lines, opener: Callable[[], sqlite3.Connection]
) -> None:
    free, busy = lines.add(opener), lines.add(opener)
    before = ask(free)
    with busy.used():
        assert not lines.pause(0.01)
        assert ask(free) is before
    assert lines.pause(PATIENCE_S)
    lines.resume()


def test_a_pause_gets_its_turn_from_a_user_that_never_rests(
    lines: Lines, opener: Callable[[], sqlite3.Connection]
) -> None:
    line, stop = lines.add(opener), threading.Event()

    def go_on() -> None:
        while not stop.is_set():
            ask(line)

    with ThreadPoolExecutor(1) as threads:
        going_on = threads.submit(go_on)
        for _ in range(20):
            assert lines.pause(PATIENCE_S)
            lines.resume()
        stop.set()
        going_on.result(PATIENCE_S)


def test_a_file_that_cannot_be_opened_again_is_an_error_of_each_call(lines: Lines) -> None:
    here = True

    def open_while_here() -> sqlite3.Connection:
        if not here:
            raise LogUnavailable("the folder is gone")
        return sqlite3.connect(":memory:", check_same_thread=False)

    line = lines.add(open_while_here)
    assert lines.pause(PATIENCE_S)
    lines.resume()
    here = False
    for _ in range(2):
        with pytest.raises(LogUnavailable), line.used():
            pass
    here = True
    ask(line)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_followers_go_on_across_forks_and_hear_of_what_the_children_write(sqlite_url: str) -> None:
    with (
        connect(sqlite_url) as streams,
        start_run("w", url=sqlite_url) as run,
        streams.subscribe(run.run_id, kinds="event") as following,
    ):
        for number in range(5):
            pid = os.fork()
            if pid == 0:
                publish({"n": number})
                os._exit(0 if process.wait_stored(PATIENCE_S) else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            assert next(following).data == {"n": number}
            publish({"n": -number})
            assert next(following).data == {"n": -number}
    assert process.close_publishers()
