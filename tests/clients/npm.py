"""The TypeScript packages, with what they are built with."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Vite runs on no older one.
NODE_MAJOR_MIN = 20

Npm = Callable[..., str]


def node_or_skip() -> None:
    """Skip at home, fail in CI, where Node is missing or too old."""
    node = shutil.which("node")
    version = (
        subprocess.run([node, "-v"], capture_output=True, text=True, check=True).stdout
        if node
        else ""
    )
    if not node or int(version[1:].split(".")[0]) < NODE_MAJOR_MIN or not shutil.which("npm"):
        here = version.strip() or "none"
        reason = f"the browser clients need Node {NODE_MAJOR_MIN} or newer, here is {here}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


def run(folder: Path, *command: str) -> str:
    """Run a command there; its output. A failure fails the test with what it printed."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1", "npm_config_update_notifier": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(command)} in {folder.name}:\n{done.stdout[-8000:]}", pytrace=False)
    return done.stdout


def installed(folder: Path) -> Path:
    """The package, with exactly the versions that its lock file names."""
    stamp = folder / "node_modules" / ".package-lock.json"
    lock = folder / "package-lock.json"
    with lock.open() as file:
        # Another process of these tests may be about it: it would have its packages taken away.
        fcntl.flock(file, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
            run(folder, "npm", "ci", "--no-audit", "--no-fund")
    return folder
