"""The TypeScript client in a real browser: what must survive reloads, restarts and expired tokens."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from playwright.sync_api import Browser, BrowserContext, Page

from browser.certificate import self_signed
from browser.runs import ScriptedRun
from clients.npm import ROOT, installed, node_or_skip, run
from runstream.server.jwt_access import LEEWAY_S
from server_process import ServerProcess, running_server

# The page keeps what it has seen, and where it was, over reloads: both in one write.
FOLLOW = """
window.follow = async (token) => {
  const saved = () => JSON.parse(sessionStorage.getItem("seen") ?? '{"seqs":[],"others":[]}');
  const streams = runstream.connect({ url: location.origin, token });
  const { cursor } = saved();
  for await (const items of streams.pages("r", cursor ? { after: cursor } : {})) {
    const seen = saved();
    for (const item of items) (item.seq ? seen.seqs : seen.others).push(item.seq ?? item.kind);
    sessionStorage.setItem("seen", JSON.stringify({ ...seen, cursor: items.at(-1).cursor }));
  }
  sessionStorage.setItem("ended", "yes");
};
if (sessionStorage.getItem("following")) window.follow();
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The client as a script, and a page's own that follows the run `r`."""
    node_or_skip()
    client = installed(ROOT / "clients" / "typescript")
    bundle = tmp_path_factory.mktemp("bundle") / "client.js"
    options = ("--bundle", "--format=iife", "--global-name=runstream", f"--outfile={bundle}")
    run(client, "npx", "esbuild", "src/index.ts", *options)
    return f"{bundle.read_text('utf-8')}\nwindow.runstream = runstream;\n{FOLLOW}"


@pytest.fixture
def context(chromium: Browser, script: str) -> Generator[BrowserContext]:
    made = chromium.new_context(ignore_https_errors=True)
    made.add_init_script(script)
    yield made
    made.close()


@contextmanager
def publishing(scripted: ScriptedRun, batches: int, size: int = 5) -> Generator[threading.Thread]:
    """Publish from a thread, some milliseconds between two batches, then end the run."""

    def work() -> None:
        for _ in range(batches):
            scripted.say_all([{"kind": "token", "data": {"text": "x"}} for _ in range(size)])
            time.sleep(0.01)
        scripted.end()

    thread = threading.Thread(target=work)
    thread.start()
    yield thread
    thread.join()


def seen(page: Page) -> list[int]:
    seqs: list[int] = page.evaluate("JSON.parse(sessionStorage.getItem('seen'))?.seqs ?? []")
    return seqs


def wait_for_end(page: Page) -> None:
    page.wait_for_function("sessionStorage.getItem('ended') === 'yes'", timeout=60_000)


def blank(page: Page, server: ServerProcess) -> None:
    """A page of the server's origin, with nothing on it."""
    page.goto(f"{server.url}/healthz")
    page.evaluate("sessionStorage.setItem('following', 'yes')")


def test_a_page_reloaded_in_the_middle_gets_each_record_once(
    server: ServerProcess, context: BrowserContext
) -> None:
    scripted = ScriptedRun(server, "r")
    page = context.new_page()
    blank(page, server)
    with publishing(scripted, batches=300):
        for least in (10, 300, 600, 900):
            page.reload()
            page.wait_for_function(
                f"(JSON.parse(sessionStorage.getItem('seen'))?.seqs.length ?? 0) > {least}"
            )
    wait_for_end(page)
    assert seen(page) == list(range(1, 1503))


def test_a_page_outlives_the_server_that_is_killed_and_started_again(
    server: ServerProcess, context: BrowserContext
) -> None:
    scripted = ScriptedRun(server, "r")
    page = context.new_page()
    blank(page, server)
    page.reload()
    for round_number in range(1, 4):
        scripted.say_all([{"kind": "token", "data": {"text": "x"}} for _ in range(100)])
        page.wait_for_function(
            f"JSON.parse(sessionStorage.getItem('seen'))?.seqs.length === {100 * round_number + 1}"
        )
        server.restart()
    scripted.end()
    wait_for_end(page)
    assert seen(page) == list(range(1, 303))


def test_twenty_tabs_share_one_connection_over_http_2(
    tmp_path: Path, sqlite_url: str, context: BrowserContext
) -> None:
    certificate, key = self_signed(tmp_path)
    with running_server(
        tmp_path, sqlite_url, "--tls-cert", str(certificate), "--tls-key", str(key)
    ) as server:
        scripted = ScriptedRun(server, "r")
        pages = [context.new_page() for _ in range(20)]
        for page in pages:
            blank(page, server)
            page.reload()
        for page in pages:
            page.wait_for_function("JSON.parse(sessionStorage.getItem('seen'))?.seqs.length === 1")
        with publishing(scripted, batches=20):
            pass
        for page in pages:
            wait_for_end(page)
            assert seen(page) == list(range(1, 103))
            protocols = page.evaluate(
                "performance.getEntriesByType('resource').map((entry) => entry.nextHopProtocol)"
            )
            assert set(protocols) == {"h2"}


def test_a_page_whose_token_expires_goes_on_with_a_new_one(
    tmp_path: Path, sqlite_url: str, context: BrowserContext
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("k" * 48, encoding="utf-8")
    secret.chmod(0o600)
    tokens: list[str] = []

    def token() -> str:
        # (The server takes a token a little longer, because clocks disagree.)
        expires = time.time() + 3 - LEEWAY_S
        claims: dict[str, Any] = {"sub": "page", "scope": "runs:read", "exp": expires}
        tokens.append(jwt.encode(claims, "k" * 48, algorithm="HS256"))
        return tokens[-1]

    with running_server(tmp_path, sqlite_url, "--jwt-secret", str(secret)) as server:
        claims = {"sub": "script", "scope": "runs:read runs:write", "exp": time.time() + 600}
        server.token = jwt.encode(claims, "k" * 48, algorithm="HS256")
        scripted = ScriptedRun(server, "r")
        page = context.new_page()
        page.expose_function("newToken", token)  # pyright: ignore[reportUnknownMemberType] - its own
        page.goto(f"{server.url}/healthz")
        page.evaluate("void window.follow(() => window.newToken())")
        deadline = time.monotonic() + 60
        while len(tokens) < 4 and time.monotonic() < deadline:
            scripted.say("token", {"text": "x"})
            page.wait_for_timeout(100)
        scripted.end()
        wait_for_end(page)
        found = seen(page)
    assert len(tokens) >= 4
    assert found == list(range(1, len(found) + 1))


def test_a_plain_event_source_with_a_run_token_reads_to_the_end(
    tmp_path: Path, sqlite_url: str, context: BrowserContext
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("k" * 48, encoding="utf-8")
    secret.chmod(0o600)
    with running_server(tmp_path, sqlite_url, "--run-token-secret", str(secret)) as server:
        read_to_the_end(server, context)


def read_to_the_end(server: ServerProcess, context: BrowserContext) -> None:
    scripted = ScriptedRun(server, "r")
    token = server.call("POST", "/v1/runs/r/tokens", {}).json["token"]
    page = context.new_page()
    page.goto(f"{server.url}/healthz")
    page.evaluate(
        """(token) => {
          window.source = new EventSource(`/v1/runs/r/events?access_token=${token}`);
          window.texts = [];
          source.addEventListener("token", (event) => texts.push(JSON.parse(event.data).data.text));
        }""",
        token,
    )
    scripted.say("token", {"text": "a"})
    page.wait_for_function("texts.length === 1")
    server.restart()
    scripted.say("token", {"text": "b"})
    page.wait_for_function("texts.length === 2")
    scripted.end()
    # It reconnects after the end, gets 204, and stops by itself.
    page.wait_for_function("source.readyState === EventSource.CLOSED")
    assert page.evaluate("texts") == ["a", "b"]
