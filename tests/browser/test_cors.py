"""A page of another origin than the server's: what it may do, and what it is told if it may not."""

from __future__ import annotations

import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import jwt
import pytest
from playwright.sync_api import Page

from browser.pages import CLIENT, bundled, web_site
from browser.runs import ScriptedRun
from clients.npm import installed, node_or_skip
from server_process import ServerProcess, running_server

SECRET = "k" * 48
HTML = "<!doctype html><title>a site</title><script src=/client.js></script>"

FOLLOW = """async ([url, token]) => {
  const streams = runstream.connect({ url, ...(token && { token }) });
  const seqs = [];
  for await (const record of streams.subscribe("r")) seqs.push(record.seq);
  return seqs;
}"""
# The code and status of what is thrown.
ASK = """async ([url, token]) => {
  const streams = runstream.connect({ url, ...(token && { token }) });
  try {
    return (await streams.handler("r").info()).status;
  } catch (error) {
    return [error instanceof runstream.RunstreamError, error.code, error.status, error.message];
  }
}"""
LISTEN = """(address) => new Promise((resolve) => {
  const source = new EventSource(address);
  const seqs = [];
  source.addEventListener("token", (event) => seqs.push(JSON.parse(event.data).seq));
  source.onerror = () => source.readyState === EventSource.CLOSED && resolve(seqs);
})"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    node_or_skip()
    installed(CLIENT)
    bundle = tmp_path_factory.mktemp("bundle") / "client.js"
    script = bundled("src/index.ts", bundle, "--format=iife", "--global-name=runstream")
    with web_site({"/": HTML, "/client.js": script}) as origin:
        yield origin


def finished_run(server: ServerProcess) -> None:
    scripted = ScriptedRun(server, "r")
    scripted.say("token", {"text": "a"})
    scripted.end()


def test_a_listed_site_follows_publishes_and_hears_what_is_wrong(
    tmp_path: Path, sqlite_url: str, site: str, page: Page
) -> None:
    with running_server(tmp_path, sqlite_url, "--cors-origin", site) as server:
        page.goto(site)
        code = page.evaluate(ASK, [server.url, ""])
        assert code[:3] == [True, "run_not_found", 404]
        scripted = ScriptedRun(server, "r")
        publish = """async (url) => {
          const streams = runstream.connect({ url });
          await streams.publish("r", { text: "from a page" }, { kind: "token" });
          await streams.handler("r").sendEvent("HumanResponseEvent", { response: "yes" });
        }"""
        page.evaluate(publish, server.url)
        scripted.end()
        assert page.evaluate(FOLLOW, [server.url, ""]) == [1, 2, 3, 4]
        assert page.evaluate(LISTEN, f"{server.url}/v1/runs/r/events") == [2]


def test_a_listed_site_uses_tokens_in_headers_and_run_tokens_in_addresses(
    tmp_path: Path, sqlite_url: str, site: str, page: Page
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(SECRET, encoding="utf-8")
    secret.chmod(0o600)
    options = ("--jwt-secret", str(secret), "--run-token-secret", str(secret))
    with running_server(tmp_path, sqlite_url, *options, "--cors-origin", site) as server:
        claims: dict[str, Any] = {
            "sub": "page",
            "scope": "runs:read runs:write",
            "exp": time.time() + 600,
        }
        server.token = jwt.encode(claims, SECRET, algorithm="HS256")
        finished_run(server)
        page.goto(site)
        assert page.evaluate(FOLLOW, [server.url, server.token]) == [1, 2, 3]
        assert page.evaluate(ASK, [server.url, ""])[:3] == [True, "unauthorized", 401]
        assert page.evaluate(ASK, [server.url, "nonsense"])[:3] == [True, "unauthorized", 401]
        run_token = server.call("POST", "/v1/runs/r/tokens", {}).json["token"]
        address = f"{server.url}/v1/runs/r/events"
        assert page.evaluate(LISTEN, f"{address}?access_token={run_token}") == [2]
        # Without a token an EventSource ends for good, without a word.
        assert page.evaluate(LISTEN, address) == []
        weak = jwt.encode({**claims, "scope": "runs:start"}, SECRET, algorithm="HS256")
        assert page.evaluate(ASK, [server.url, weak])[:3] == [True, "forbidden", 403]


def test_a_site_that_is_not_listed_reads_nothing_and_is_told_why(
    tmp_path: Path, sqlite_url: str, site: str, page: Page
) -> None:
    with running_server(tmp_path, sqlite_url, "--cors-origin", "https://example.com") as server:
        finished_run(server)
        page.goto(site)
        is_typed, code, status, message = page.evaluate(ASK, [server.url, ""])
        assert (is_typed, code, status) == (True, "unreachable", 0)
        assert f"--cors-origin {site}" in message
        assert page.evaluate(LISTEN, f"{server.url}/v1/runs/r/events") == []
        # Who follows is told the same, and waits: somebody may list the site yet.
        follow = """async (url) => {
          const leave = new AbortController();
          const told = [];
          const onState = (state, error) => {
            told.push([state, error?.code]);
            if (state === "reconnecting") leave.abort();
          };
          const streams = runstream.connect({ url });
          try {
            const options = { onState, signal: leave.signal };
            for await (const record of streams.subscribe("r", options)) told.push(record);
          } catch {}
          return told;
        }"""
        assert page.evaluate(follow, server.url) == [
            ["connecting", None],
            ["reconnecting", "unreachable"],
        ]
