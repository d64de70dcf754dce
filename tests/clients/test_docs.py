"""The TypeScript of the docs: all type-checks, and the browser page's runs in Node over a real server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from browser.runs import ScriptedRun, step
from clients.npm import ROOT, installed, node_or_skip, run
from server_process import ServerProcess

_BLOCK = re.compile(r"(<!-- not run[^\n]*\n)?^```(tsx?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, *, run_only: bool = False) -> str:
    """The page's code, its imports first."""
    text = (ROOT / "docs" / page).read_text("utf-8")
    code = "".join(
        source for not_run, _, source in _BLOCK.findall(text) if not (run_only and not_run)
    )
    imports = [line for line in code.splitlines() if line.startswith("import ")]
    rest = [line for line in code.splitlines() if not line.startswith("import ")]
    return "\n".join([*imports, *rest, "export {};\n"])


@pytest.fixture(scope="module")
def client() -> Path:
    node_or_skip()
    return installed(ROOT / "clients" / "typescript")


@pytest.mark.parametrize("page", ["browser.md", "react.md"])
def test_the_code_of_a_page_type_checks(client: Path, tmp_path: Path, page: str) -> None:
    source = tmp_path / "page.tsx"
    source.write_text(f"declare const runToken: string;\n{blocks(page)}", encoding="utf-8")
    (tmp_path / "tsconfig.json").write_text(
        json.dumps(
            {
                "extends": str(client / "tsconfig.json"),
                "compilerOptions": {
                    "module": "ESNext",
                    "moduleResolution": "Bundler",
                    "typeRoots": [str(client / "node_modules" / "@types")],
                    "paths": {
                        "runstream": [str(client / "src/index.ts")],
                        "runstream/react": [str(client / "src/react/index.ts")],
                        "react": [str(client / "node_modules/@types/react")],
                        "react/jsx-runtime": [
                            str(client / "node_modules/@types/react/jsx-runtime.d.ts")
                        ],
                    },
                },
                "include": ["page.tsx"],
            }
        ),
        encoding="utf-8",
    )
    run(client, "npx", "tsc", "-p", str(tmp_path / "tsconfig.json"))


def test_the_browser_page_runs_in_node(client: Path, tmp_path: Path, server: ServerProcess) -> None:
    haiku = ScriptedRun(server, "haiku-1")
    haiku.say("token", {"text": "An old silent pond"}, correlation_id="outline", **step(1))
    haiku.end()
    ScriptedRun(server, "notes-1")
    code = blocks("browser.md", run_only=True).replace("http://127.0.0.1:4747", server.url)
    source, bundle = tmp_path / "page.ts", tmp_path / "page.mjs"
    source.write_text(code, encoding="utf-8")
    options = ("--bundle", "--format=esm", "--platform=node", f"--outfile={bundle}")
    run(client, "npx", "esbuild", str(source), "--alias:runstream=./src/index.ts", *options)
    said = run(client, "node", str(bundle))
    assert "An old silent pond" in said
    assert "over: run.completed" in said
    assert "run_ended" in said
    # Its last word on the run: removed, and nothing else is.
    assert server.call("GET", "/v1/runs/haiku-1").status == 404
    assert server.call("GET", "/v1/runs/notes-1").status == 200
