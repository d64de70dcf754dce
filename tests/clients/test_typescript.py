"""The TypeScript client: types, its own tests, its size, and its speed."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from clients.npm import ROOT, installed, node_or_skip, run

# What a page pays for following a run.
CORE_BYTES_MAX = 6000


@pytest.fixture(scope="module")
def client() -> Path:
    node_or_skip()
    return installed(ROOT / "clients" / "typescript")


def test_its_types_hold(client: Path) -> None:
    run(client, "npx", "tsc", "-p", "tsconfig.json")


def test_its_own_tests_pass(client: Path) -> None:
    # (It names slow ones, and a name may say "failed".)
    assert "passed" in run(client, "npm", "test")


def test_it_builds_what_its_package_names(client: Path, tmp_path: Path) -> None:
    run(client, "npx", "tsc", "-p", "tsconfig.build.json", "--outDir", str(tmp_path))
    for name in ("index.js", "index.d.ts", "react/index.js", "react/index.d.ts"):
        assert (tmp_path / name).is_file()


def test_its_core_is_small(client: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "core.js"
    options = ("--bundle", "--minify", "--format=esm", "--target=es2022", f"--outfile={bundle}")
    run(client, "npx", "esbuild", "src/index.ts", *options)
    assert len(gzip.compress(bundle.read_bytes())) <= CORE_BYTES_MAX


def test_no_lock_file_names_where_packages_came_from() -> None:
    for lock in (ROOT / "clients").glob("*/package-lock.json"):
        assert '"resolved"' not in lock.read_text("utf-8")
