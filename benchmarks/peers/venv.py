"""Put each peer in an environment of its own: ``.venv/bin/python -m benchmarks.peers.venv``.

They are folders of ``.bench-venv``: one environment each, because their pins disagree and one of
them needs a newer Python than we do.
A peer that can't be installed leaves its reason behind; the benchmark prints it and goes on.
Running it again does nothing until a pin changes.
"""

import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rows import ROOT

HOME = ROOT / ".bench-venv"
PINS = Path(__file__).with_name("requirements.txt")


@dataclass(frozen=True)
class Peer:
    """What of `requirements.txt` is installed, and where it runs."""

    packages: tuple[str, ...]
    python: tuple[int, int]  # the oldest that it runs on


PEERS = {
    "llamaindex": Peer(("llama-index-workflows",), (3, 11)),
    "zenml": Peer(("zenml",), (3, 11)),
    "mistral": Peer(("mistralai-workflows",), (3, 12)),
    "sse-starlette": Peer(("sse-starlette", "uvicorn[standard]"), (3, 11)),
}


class InstallError(Exception):
    """A peer could not be installed; the message says why."""


def python(peer: str) -> Path:
    """The interpreter of the peer's environment."""
    return HOME / peer / "bin" / "python"


def missing(peer: str) -> str | None:
    """Why the peer can't be measured, or None when it can."""
    if _is_current(peer):
        return None
    try:
        return f"not installed: {_reason(peer).read_text().strip()}"
    except FileNotFoundError:
        return "not installed as pinned: run .venv/bin/python -m benchmarks.peers.venv"


def _stamp(peer: str) -> Path:
    return HOME / peer / "pins.txt"  # written last: a broken install has none


def _is_current(peer: str) -> bool:
    return _stamp(peer).is_file() and _stamp(peer).read_text() == PINS.read_text()


def _reason(peer: str) -> Path:
    return HOME / f"{peer}.why"


def install(name: str) -> str:
    """Make the peer's environment unless it is there already; returns what to tell the user.

    Raises InstallError, and records the reason for `missing`, when it can't.
    """
    if _is_current(name):
        return "installed already"
    shutil.rmtree(HOME / name, ignore_errors=True)
    HOME.mkdir(exist_ok=True)
    start = time.monotonic()
    try:
        _install(name, PEERS[name])
    except InstallError as error:
        _reason(name).write_text(f"{error}\n")
        raise
    _stamp(name).write_text(PINS.read_text())
    _reason(name).unlink(missing_ok=True)
    files = [file for file in (HOME / name).rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files) / 2**20
    return f"installed in {time.monotonic() - start:.0f} s, {size:.0f} MiB"


def _install(name: str, peer: Peer) -> None:
    base = _interpreter(peer.python)
    # Without pip inside: ours installs from outside, also where a system Python has no ensurepip.
    _run([base, "-m", "venv", "--without-pip", str(HOME / name)])
    pip = [sys.executable, "-m", "pip", "--python", str(python(name))]
    quiet = ["--quiet", "--disable-pip-version-check"]
    _run([*pip, "install", *quiet, "--constraint", str(PINS), *peer.packages])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise InstallError(words[-1] if words else f"{command[2]} exited with {done.returncode}")


def _interpreter(oldest: tuple[int, int]) -> str:
    """This Python if it is new enough, else the first newer one that really starts."""
    if sys.version_info >= oldest:
        return sys.executable
    versions = [f"3.{minor}" for minor in range(oldest[1], 15)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in versions:
        for found in [shutil.which(f"python{version}"), *pyenv.glob(f"{version}.*/bin/python3")]:
            if found and _starts(str(found)):  # a version manager's shim may be there and not work
                return str(found)
    raise InstallError(f"needs Python {oldest[0]}.{oldest[1]} or newer, and none was found")


def _starts(command: str) -> bool:
    check = [command, "-c", "import venv"]
    return subprocess.run(check, capture_output=True, check=False).returncode == 0


def main() -> None:
    for name, peer in PEERS.items():
        print(f"{name} ({', '.join(peer.packages)}): ", end="", flush=True)
        try:
            print(install(name))
        except InstallError as error:
            print(f"not installed: {error}")


if __name__ == "__main__":
    main()
