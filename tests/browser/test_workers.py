"""The TypeScript client inside web workers, which have no page."""

from __future__ import annotations

from collections.abc import Generator

import pytest
from playwright.sync_api import Page

from browser.pages import CLIENT, bundled, web_site
from browser.runs import ScriptedRun
from clients.npm import installed, node_or_skip
from server_process import ServerProcess, running_server

ASK = """([url, type]) => new Promise((resolve, reject) => {
  const worker = new Worker("/worker.js", { type });
  worker.onmessage = (message) => resolve(message.data);
  worker.onerror = (error) => reject(new Error(error.message));
  worker.postMessage({ url, runId: "r" });
})"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    node_or_skip()
    installed(CLIENT)
    bundle = tmp_path_factory.mktemp("bundle") / "worker.js"
    script = bundled("test/pages/worker.ts", bundle, "--format=iife")
    with web_site({"/": "<!doctype html><title>a site</title>", "/worker.js": script}) as origin:
        yield origin


@pytest.fixture
def server(site: str, tmp_path_factory: pytest.TempPathFactory) -> Generator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    url = f"sqlite:{folder}/events.db"
    with running_server(folder, url, "--cors-origin", site) as running:
        yield running


@pytest.mark.parametrize("kind", ["classic", "module"])
def test_a_worker_publishes_and_follows_to_the_end(
    server: ServerProcess, site: str, page: Page, kind: str
) -> None:
    scripted = ScriptedRun(server, "r")
    page.goto(site)
    page.evaluate(
        f"([url, type]) => void (window.answer = ({ASK})([url, type]))", [server.url, kind]
    )
    for _ in range(5):
        scripted.say("token", {"text": "x"})
    # The run ends once the worker's own record is in it, so that it is not refused.
    path = "/v1/runs/r/events?kinds=note&wait=30"
    headers = {"accept": "application/json"}
    assert server.call("GET", path, headers=headers).json["records"]
    scripted.end()
    assert page.evaluate("answer") == {"seqs": list(range(1, 9))}


def test_a_worker_hears_the_same_errors(server: ServerProcess, site: str, page: Page) -> None:
    page.goto(site)
    assert page.evaluate(ASK, [server.url, "module"]) == {"error": "run_not_found"}
