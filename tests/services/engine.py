"""An engine as a child process of the test: started, killed, paused, started again with the same data."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pytest

# A guard against hanging: an engine that recovers from a crash on a loaded machine takes a second or two.
START_S_MAX = 60.0
_POLL_S = 0.01
# Below the range of outgoing connections of usual systems (Linux: 32768, others: 49152).
_PORTS = range(20_000, 32_000)
# Those that were given out: who has one may be away for a while, and comes back to it.
_given: set[int] = set()
_SHOWN_BYTES = 2000


def find_program(name: str, *folders: str) -> str:
    """The path of an engine's program, also outside the PATH in `folders`.

    Where it is not installed the test is skipped, or fails if `CI=true`.
    """
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *folders]))
    if path is not None:
        return path
    why = f"{name} is not installed; `make services` installs it"
    if os.environ.get("CI") == "true":
        pytest.fail(why, pytrace=False)
    pytest.skip(why)


def is_free(port: int) -> bool:
    """Whether nobody has that port of the loopback interface, nor will by chance."""
    with socket.socket() as one, contextlib.suppress(OSError):
        one.bind(("127.0.0.1", port))
        return port in _PORTS
    return False


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback interface that nobody listens on.

    Not of those that outgoing connections get: one of them, even one that is over, would keep an engine
    from starting again on its port. Nobody else gets them in this run of the tests, neither before they are
    listened on nor later.
    """
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(_ports_of_worker())
        if port not in _given and is_free(port):
            _given.add(port)
            found.append(port)
    return found


def _ports_of_worker() -> range:
    """The share of this one of the processes that run the tests side by side."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return _PORTS[number :: int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))]


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    return free_ports(1)[0]


def answers(port: int) -> bool:
    """Whether somebody accepts connections on that port; the plainest sign that an engine is ready."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


class Engine:
    """One engine's process. Its methods block: in a coroutine call them with `asyncio.to_thread`.

    `is_ready` says whether it serves; it is asked until it does. Its output goes to `folder/output.log`.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        folder: Path,
        is_ready: Callable[[], bool],
        *,
        user: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.command = [str(word) for word in command]
        self._folder = folder
        self._is_ready = is_ready
        self._user = user
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """Of that process and of all its children, the oldest first."""
        return _family(self.pid)

    @property
    def returncode(self) -> int | None:
        """How the process that was started last has ended; None while it runs."""
        assert self._process is not None
        return self._process.poll()

    @property
    def output(self) -> str:
        """What it has written to its output, in all its lives."""
        return (self._folder / "output.log").read_text(errors="replace")

    def start(self) -> None:
        """Start it (again), and wait until it is ready."""
        assert self._process is None or self._process.poll() is not None, "it runs already"
        with (self._folder / "output.log").open("ab") as output:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self._folder,
                user=self._user,
                env=self._environment,
                # Ctrl-C in the terminal is for pytest, whose fixtures then end the engine.
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S_MAX
        while not self._is_ready():
            ended = self._process.poll()
            why = f"ended with {ended}" if ended is not None else "is not ready"
            if ended is not None or time.monotonic() > deadline:
                self.kill()
                pytest.fail(f"{self.command[0]} {why}:\n{self.output[-_SHOWN_BYTES:]}")
            time.sleep(_POLL_S)

    def kill(self) -> None:
        """As a power cut for the process, and for its children: `kill -9`. Waits until it is gone."""
        if self._process is None or self._process.poll() is not None:
            return
        # (Whoever is stopped has no more children meanwhile, which nobody would kill.)
        family = _stop(self._process.pid)
        _send(family, signal.SIGKILL)
        self._process.wait()
        # What a child of it still has in its hands (a lock, a port) must not meet its successor.
        deadline = time.monotonic() + START_S_MAX
        while any(is_alive(pid) for pid in family) and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def stop(self, how: signal.Signals = signal.SIGTERM, *, timeout_s: float = START_S_MAX) -> None:
        """Have it end by itself; waits for that. Raises TimeoutExpired."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            self._process.wait(timeout_s)

    def restart(self) -> None:
        """`kill -9`, and start again with the same data on the same port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Stop it and its children in their tracks: connections stay, nobody answers. Waits until all
        have stopped: the signal stops no thread before one of them has had its turn to take it.
        """
        _stop(self.pid)

    def resume(self) -> None:
        """Let them go on."""
        if self._process is not None and self._process.poll() is None:
            _send(_family(self._process.pid), signal.SIGCONT)


def _stop(pid: int) -> list[int]:
    """Stop a process and its descendants, those too that one of them is just starting; who they are."""
    stopped: list[int] = []
    deadline = time.monotonic() + START_S_MAX
    while (family := _family(pid)) != stopped and time.monotonic() < deadline:
        _send(family, signal.SIGSTOP)
        while not all(map(_is_stopped, family)) and time.monotonic() < deadline:
            time.sleep(_POLL_S / 10)
        stopped = family
    return stopped


def _family(pid: int) -> list[int]:
    """A process and its descendants, the oldest first. (Some may be missing while others of them end.)"""
    found = [pid]
    for one in found:
        for thread in _threads(one):
            with contextlib.suppress(OSError):
                found += map(int, (thread / "children").read_text().split())
    return found


def _threads(pid: int) -> list[Path]:
    """What Linux tells of each thread of a process; of one that has ended, or ends just now, nothing."""
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _send(pids: Iterable[int], which: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, which)


def is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended."""
    return _state(Path(f"/proc/{pid}/stat")) not in "ZX"


def _is_stopped(pid: int) -> bool:
    return all(_state(thread / "stat") in "TZX" for thread in _threads(pid))


def _state(stat: Path) -> str:
    """The letter that Linux shows for a process or thread; X if there is none."""
    try:
        return stat.read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"
