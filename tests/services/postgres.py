"""PostgreSQL for tests: with its own defaults for durability, and small.

It refuses to run as root, so for root's tests another user runs it, in a folder that this user can reach.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from .engine import Engine, find_program, free_port, is_alive

# Debian keeps the server's programs, one folder for each version, out of the PATH.
FOLDERS = tuple(map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)))
# It takes milliseconds; but one that wakes from a pause may wait a minute for sessions that just begin.
QUIT_S_MAX = 5.0
USER, PASSWORD, DATABASE = "runstream", "p4ss:w/rd", "events"


class PostgresServer(Engine):
    """A PostgreSQL of one test. `url` is that of its log; `sql` speaks to it without our own code."""

    connections_max = 8
    # (Before that it is only looked at.)
    opening = b'"workflow":'

    def __init__(self, folder: Path, *settings: str, user: str | None) -> None:
        self.port = free_port()
        self.folder = folder
        self.url = self.url_at(self.port)
        command = [find_program("postgres", *FOLDERS), "-D", str(folder / "data")]
        command += ["-p", str(self.port), "-c", "unix_socket_directories="]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "shared_buffers=32MB"]
        for setting in settings:
            command += ["-c", setting]
        super().__init__(command, folder, self._answers, user=user)

    def url_at(self, port: int, *, password: str = PASSWORD, database: str = DATABASE) -> str:
        """Its URL through a proxy's port, or with other words."""
        secret = password.replace(":", "%3A").replace("/", "%2F")
        return f"postgresql://{USER}:{secret}@127.0.0.1:{port}/{database}"

    def sql(
        self, statement: str, *values: object, database: str = DATABASE
    ) -> list[tuple[Any, ...]]:
        """The rows that one statement gives."""
        with psycopg.connect(
            self.url_at(self.port, database=database), autocommit=True, connect_timeout=30
        ) as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def quit(self) -> None:
        """Have it end at once; unlike one that is killed it gives its shared memory back."""
        self.resume()
        with suppress(subprocess.TimeoutExpired):
            self.stop(signal.SIGQUIT, timeout_s=QUIT_S_MAX)
        self.kill()

    def connections(self) -> int:
        ((count,),) = self.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'runstream'"
        )
        return int(count)

    def empty(self) -> None:
        self.sql("TRUNCATE runstream.run, runstream.chunk, runstream.producer, runstream.retention")

    def fill(self) -> None:
        # Above its own files (16 MiB), and soon reached by a table.
        self._limit_files(f"{20 * 1024 * 1024}:unlimited")

    def make_room(self) -> None:
        self._limit_files("unlimited")

    def stored_of(self, run_id: str) -> int:
        ((count,),) = self.sql(
            "WITH kept AS (SELECT id FROM runstream.run WHERE run_id <> %s AND root = id)"
            " SELECT (SELECT count(*) FROM runstream.run WHERE root NOT IN (TABLE kept))"
            " + (SELECT count(*) FROM runstream.chunk WHERE run NOT IN (TABLE kept))"
            " + (SELECT count(*) FROM runstream.producer WHERE run NOT IN (TABLE kept))",
            run_id,
        )
        return int(count)

    def _limit_files(self, limit: str) -> None:
        """How long a file of it may get (`SOFT:HARD` in bytes); beyond that its writes fail."""
        # (First the one that starts the others, who inherit it.)
        for pid in (self.pid, *self.pids):
            command = ["prlimit", "--pid", str(pid), f"--fsize={limit}"]
            done = subprocess.run(command, user=self._user, capture_output=True, check=False)
            # (A session of it may end meanwhile.)
            assert done.returncode == 0 or not is_alive(pid), done.stderr

    def _answers(self) -> bool:
        with suppress(psycopg.OperationalError):
            return self.sql("SELECT 1", database="postgres") == [(1,)]
        return False


def server_user() -> str | None:
    """Who runs the server: we ourselves, but for root, who may not."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"


def make_cluster(folder: Path) -> None:
    """Make the files of a server in `folder/data`, for `server_user()`."""
    user = server_user()
    if user is not None:
        shutil.chown(folder, user)
    password = folder / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)
    command = [find_program("initdb", *FOLDERS), "-D", str(folder / "data"), "-U", USER]
    command += ["--pwfile", str(password), "--auth", "scram-sha-256", "--encoding", "UTF8"]
    command += ["--no-locale", "--no-sync"]
    subprocess.run(command, cwd=folder, user=user, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def _folder() -> Generator[Path]:
    # (pytest's own folders are closed to other users.)
    folder = Path(tempfile.mkdtemp(prefix="runstream-postgres-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running_postgres(cluster: Path, *settings: str) -> Generator[PostgresServer]:
    """A server on a copy of `cluster` for the time of the block; `settings` as in `postgresql.conf`."""
    with _folder() as folder:
        user = server_user()
        # With its owners: a copy by Python's own means would be ours.
        subprocess.run(["cp", "-a", cluster / "data", folder / "data"], check=True)
        server = PostgresServer(folder, *settings, user=user)
        try:
            server.start()
            server.sql(f"CREATE DATABASE {DATABASE}", database="postgres")
            yield server
        finally:
            server.quit()


@pytest.fixture(scope="session")
def postgres_cluster() -> Generator[Path]:
    """The files of a server that has never run, to copy."""
    with _folder() as folder:
        make_cluster(folder)
        yield folder


@pytest.fixture(scope="session")
def postgres_url(postgres_cluster: Path) -> Generator[str]:
    """The URL of a PostgreSQL log that the tests of this session share: use run ids of your own."""
    with running_postgres(postgres_cluster) as server:
        yield server.url


@pytest.fixture
def postgres_server(postgres_cluster: Path) -> Generator[PostgresServer]:
    """A PostgreSQL of this test alone."""
    with running_postgres(postgres_cluster) as server:
        yield server
