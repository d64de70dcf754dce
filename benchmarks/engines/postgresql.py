"""PostgreSQL as it comes, fsync and synchronous_commit on; alone, psycopg pipelines one INSERT a record."""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg

START_S_MAX = 30.0
# Where Debian keeps the server's programs.
FOLDERS = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


@contextmanager
def serving(folder: Path) -> Generator[str]:
    user = _user()
    data = folder / "data"
    data.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(data, user)
        for above in (folder, *folder.parents):
            # Another user has to pass through our own folders.
            if above.stat().st_uid == os.geteuid():
                above.chmod(above.stat().st_mode | 0o011)
    # (Where it stands must be a folder that it may look into.)
    initdb = [_program("initdb"), "-D", str(data), "-U", "bench", "--auth", "trust", "-E", "UTF8"]
    initdb += ["--no-locale", "--no-sync"]
    subprocess.run(initdb, check=True, user=user, cwd=data, stdout=subprocess.DEVNULL)
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [_program("postgres"), "-D", str(data), "-p", str(port)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
    with subprocess.Popen(command, user=user, cwd=data, stderr=subprocess.DEVNULL) as process:
        try:
            url = f"postgresql://bench@127.0.0.1:{port}/postgres"
            _wait_ready(url)
            yield url
        finally:
            process.send_signal(signal.SIGQUIT)  # at once, and with its children


def _user() -> str | None:
    """Who runs it: PostgreSQL refuses to be run by root."""
    if os.geteuid() != 0:
        return None
    return "postgres" if "postgres" in {entry.pw_name for entry in pwd.getpwall()} else "nobody"


def _program(name: str) -> str:
    path = shutil.which(name, path=os.pathsep.join([os.environ["PATH"], *map(str, FOLDERS)]))
    if path is None:
        raise SystemExit(f"{name} is not installed")
    return path


def _wait_ready(url: str) -> None:
    until = time.monotonic() + START_S_MAX
    while True:
        with suppress(psycopg.OperationalError), psycopg.connect(url):
            return
        if time.monotonic() > until:
            raise SystemExit("PostgreSQL did not start")
        time.sleep(0.05)


async def bare(url: str, batches: Sequence[Sequence[bytes]]) -> float:
    connection = await psycopg.AsyncConnection.connect(url, prepare_threshold=0)
    async with connection, connection.cursor() as cursor:
        await cursor.execute(
            "CREATE TABLE IF NOT EXISTS bare (run bigint, seq bigint, d bytea, PRIMARY KEY (run, seq))"
        )
        found = await cursor.execute("SELECT coalesce(max(run), 0) + 1 FROM bare")
        run = (await found.fetchone() or (1,))[0]
        await connection.commit()
        begin = time.perf_counter()
        seq = 0
        for batch in batches:
            rows = [(run, seq + place, record) for place, record in enumerate(batch, 1)]
            await cursor.executemany("INSERT INTO bare VALUES (%s, %s, %b)", rows)
            await connection.commit()
            seq += len(batch)
        return time.perf_counter() - begin
