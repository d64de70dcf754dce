"""The console that ships is the one of its sources, and small."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from clients.npm import ROOT, installed, node_or_skip, run

SHIPPED = ROOT / "src" / "runstream" / "server" / "console_files"
ALL_BYTES_MAX = 200_000


@pytest.fixture(scope="module")
def console() -> Path:
    node_or_skip()
    installed(ROOT / "clients" / "typescript")
    return installed(ROOT / "clients" / "console")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_its_types_hold(console: Path) -> None:
    run(console, "npx", "tsc", "-p", "tsconfig.json")


def test_the_shipped_build_is_not_stale(console: Path, tmp_path: Path) -> None:
    run(console, "npx", "vite", "build", "--outDir", str(tmp_path), "--emptyOutDir")
    assert contents(tmp_path) == contents(SHIPPED), "run `npm run build` in clients/console"


def test_it_is_small_and_asks_nobody_else() -> None:
    files = contents(SHIPPED)
    assert sum(len(gzip.compress(content)) for content in files.values()) <= ALL_BYTES_MAX
    for name, content in files.items():
        for address in (b"https://cdn", b"//unpkg", b"//fonts.", b"googleapis"):
            assert address not in content, name
