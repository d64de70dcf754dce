"""A real server for a row: `runstream serve` on the one core, the measuring client on the other."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_S_MAX = 30.0


@dataclass(frozen=True)
class Served:
    """Where it listens, and its process."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def cpu_s(self) -> float:
        """What the server has used of its core so far."""
        stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(log_url: str, *options: str) -> Generator[Served]:
    """A server over `log_url` on the last core, while this process stays on the first one."""
    with _started(
        ["-m", "runstream", "serve", "--url", log_url, "--port", "{port}", *options]
    ) as served:
        yield served


@contextmanager
def serving_module(module: str) -> Generator[Served]:
    """As `serving`, another server: ``python -m MODULE PORT``."""
    with _started(["-m", module, "{port}"]) as served:
        yield served


@contextmanager
def _started(arguments: list[str]) -> Generator[Served]:
    cores = sorted(os.sched_getaffinity(0))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = [sys.executable, *(word.replace("{port}", str(port)) for word in arguments)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            if len(cores) > 1:
                os.sched_setaffinity(process.pid, cores[-1:])
                os.sched_setaffinity(0, cores[:1])
            _wait_listening(process, port)
            yield Served(port, process.pid)
        finally:
            process.kill()
            # For the next server.
            os.sched_setaffinity(0, cores)


def _wait_listening(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S_MAX
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the server did not start") from None
            time.sleep(0.02)
        else:
            return
