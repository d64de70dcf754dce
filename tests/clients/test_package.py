"""What is published: the npm package in an empty project of somebody else, and the wheel with its console."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from clients.npm import ROOT, installed, node_or_skip, run
from server_process import running_server

CONSOLE = "runstream/server/console_files"

PAGE = """
import { connect, isGap, type StreamRecord, TextFold } from "runstream";
import { RunstreamProvider, useRun, useTask, useText } from "runstream/react";

export async function texts(url: string): Promise<string> {
  const fold = new TextFold();
  for await (const item of connect({ url }).subscribe("r", { kinds: "token" })) {
    if (!isGap(item)) fold.feed(item as StreamRecord<{ text: string }>);
  }
  return fold.text();
}

export function Answer({ runId }: { runId: string }) {
  const run = useRun(runId);
  const task = useTask<{ done: number }>(runId, "progress");
  const done: number | undefined = task?.state.done;
  return <p>{run.status} {useText(runId)} {done}</p>;
}

export const App = () => (
  <RunstreamProvider url="http://127.0.0.1:4747"><Answer runId="r" /></RunstreamProvider>
);

// @ts-expect-error: the types are there, and strict
connect({ address: "http://127.0.0.1:4747" });
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tarball, unpacked as npm would into an empty project's node_modules."""
    node_or_skip()
    client = installed(ROOT / "clients" / "typescript")
    project = tmp_path_factory.mktemp("project")
    # (Built in a copy: the sources of a checkout stay as they are.)
    copy = project / "copy"
    shutil.copytree(client, copy, ignore=shutil.ignore_patterns("node_modules", "dist", "test"))
    (copy / "node_modules").symlink_to(client / "node_modules")
    run(copy, "npm", "run", "build")
    run(copy, "npm", "pack", "--pack-destination", str(project))
    (copy / "node_modules").unlink()
    shutil.rmtree(copy)
    [tarball] = project.glob("runstream-*.tgz")
    (project / "package.json").write_text('{"name": "empty", "private": true, "type": "module"}')
    # It depends on nothing, so nobody is asked for anything; React is there as its user's own.
    options = ("--offline", "--no-audit", "--no-fund", "--legacy-peer-deps")
    run(project, "npm", "install", *options, f"./{tarball.name}")
    for name in ("react", "@types/react", "csstype"):
        (project / "node_modules" / name).parent.mkdir(exist_ok=True)
        (project / "node_modules" / name).symlink_to(client / "node_modules" / name)
    return project


@pytest.mark.parametrize(
    ("module", "resolution"), [("ESNext", "Bundler"), ("NodeNext", "NodeNext")]
)
def test_an_empty_project_type_checks_against_the_packed_one(
    package: Path, module: str, resolution: str
) -> None:
    (package / "page.tsx").write_text(PAGE)
    options = {
        "strict": True,
        "noEmit": True,
        "target": "ES2022",
        "lib": ["ES2023", "DOM", "DOM.Iterable"],
        "jsx": "react-jsx",
        "module": module,
        "moduleResolution": resolution,
        "types": [],
    }
    config = package / f"tsconfig.{resolution}.json"
    config.write_text(json.dumps({"compilerOptions": options, "include": ["page.tsx"]}))
    run(ROOT / "clients" / "typescript", "npx", "tsc", "-p", str(config))


def test_node_imports_the_packed_one(package: Path) -> None:
    (package / "look.mjs").write_text(
        """
        import * as core from "runstream";
        import * as hooks from "runstream/react";
        const streams = core.connect({ url: "http://127.0.0.1:9" });
        const failed = await streams.handler("r").info().catch((error) => error.code);
        console.log(failed, typeof hooks.useRun, typeof hooks.useText, typeof hooks.useTask);
        """
    )
    assert run(package, "node", "look.mjs").strip() == "unreachable function function function"


def test_the_package_holds_what_it_needs_and_depends_on_nothing(package: Path) -> None:
    folder = package / "node_modules" / "runstream"
    about = json.loads((folder / "package.json").read_text("utf-8"))
    assert "dependencies" not in about
    assert {entry.name for entry in folder.iterdir()} == {"README.md", "dist", "package.json"}
    named = [path for export in about["exports"].values() for path in export.values()]
    assert all((folder / path).is_file() for path in named)


def test_the_wheel_holds_the_console_and_serves_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path / "site")
    shipped = ROOT / "src" / CONSOLE
    files = [path.relative_to(shipped) for path in shipped.rglob("*") if path.is_file()]
    assert len(files) >= 3
    for name in files:
        assert (tmp_path / "site" / CONSOLE / name).read_bytes() == (shipped / name).read_bytes()
    # (A word that only the unpacked one says: it is not this checkout that serves.)
    site = tmp_path / "site"
    index = site / CONSOLE / "index.html"
    index.write_text(index.read_text("utf-8").replace("<title>Runstream", "<title>Unpacked"))
    with running_server(tmp_path, f"sqlite:{tmp_path}/events.db", PYTHONPATH=str(site)) as server:
        page = server.call("GET", "/").body.decode()
        assert "<title>Unpacked" in page
        assets = re.findall(r'"\./(assets/[^"]+)"', page)
        assert len(assets) == 2
        for name in assets:
            assert server.call("GET", f"/{name}").body == (shipped / name).read_bytes()
