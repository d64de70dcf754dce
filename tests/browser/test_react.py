"""The React hooks in a real browser, in strict mode, on a page of another origin than the server's."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from playwright.sync_api import Browser, Page, expect

from browser.pages import bundled, web_site
from browser.runs import ScriptedRun
from clients.npm import ROOT, installed, node_or_skip
from server_process import ServerProcess, running_server

HTML = '<!doctype html><title>hooks</title><div id="root"></div><script src="/page.js"></script>'
SHOWN_MS_MAX = 30_000
# Between two drawings of a page that nobody sees.
HIDDEN_MS = 500
# A connection on which nothing has come for so long is given up (the server says something every 15 s).
SILENCE_MS = 45_000


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    node_or_skip()
    installed(ROOT / "clients" / "typescript")
    script = bundled("test/pages/react.tsx", tmp_path_factory.mktemp("bundle") / "page.js")
    with web_site({"/": HTML, "/page.js": script}) as origin:
        yield origin


@pytest.fixture
def server(site: str, tmp_path: Path, sqlite_url: str) -> Generator[ServerProcess]:
    with running_server(tmp_path, sqlite_url, "--cors-origin", site) as running:
        yield running


@pytest.fixture
def asked(page: Page) -> list[str]:
    """The addresses of the streams that the page has asked for."""
    found: list[str] = []
    page.on(
        "request", lambda request: found.append(request.url) if "/events" in request.url else None
    )
    return found


def tokens(scripted: ScriptedRun, *texts: str) -> None:
    scripted.say_all(
        [{"kind": "token", "data": {"text": text}, "correlation_id": "a"} for text in texts]
    )


def shows(page: Page, run: str, text: str) -> None:
    expect(page.locator("#run")).to_have_text(run, timeout=SHOWN_MS_MAX)
    expect(page.locator("#text").first).to_have_text(text, timeout=SHOWN_MS_MAX)


@contextmanager
def asleep(chromium: Browser) -> Generator[None]:
    """The browser's pages do not run: their processes are stopped, as those of a laptop that sleeps."""
    devtools = chromium.new_browser_cdp_session()
    told: dict[str, Any] = cast("Any", devtools).send("SystemInfo.getProcessInfo")
    processes = [found["id"] for found in told["processInfo"] if found["type"] == "renderer"]
    assert processes
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process, signal.SIGCONT)


def test_all_hooks_share_one_connection_in_strict_mode(
    server: ServerProcess, site: str, page: Page, asked: list[str]
) -> None:
    scripted = ScriptedRun(server, "r")
    page.goto(f"{site}/?server={server.url}")
    shows(page, "running open 1, 0 gaps", "")
    tokens(scripted, "Hel", "lo")
    state = {"task_id": "t", "version": 0, "state": {"n": 1}}
    scripted.say("task.started", state, topic="count")
    patch = [{"op": "replace", "path": "/n", "value": 2}]
    scripted.say("task.progress", {"task_id": "t", "version": 1, "patch": patch}, topic="count")
    shows(page, "running open 5, 0 gaps", "Hello")
    expect(page.locator("#task")).to_have_text("2")
    scripted.end()
    shows(page, "completed ended 6, 0 gaps", "Hello")
    assert len(asked) == 1


def test_a_reload_goes_on_where_the_page_was(
    server: ServerProcess, site: str, page: Page, asked: list[str]
) -> None:
    scripted = ScriptedRun(server, "r")
    page.goto(f"{site}/?server={server.url}")
    expected = ""
    for number in range(1, 4):
        tokens(scripted, f"{number} ", "x ")
        expected += f"{number} x "
        shows(page, f"running open {1 + 2 * number}, 0 gaps", expected.strip())
        page.reload()
    tokens(scripted, "end")
    scripted.end()
    shows(page, "completed ended 9, 0 gaps", f"{expected}end")
    assert ["after=" in url for url in asked] == [False, True, True, True]
    # Of a run that is over, the page has all: it asks once, and is told that nothing follows.
    page.reload()
    shows(page, "completed ended 9, 0 gaps", f"{expected}end")


def test_what_is_unmounted_leaves_and_comes_back_without_loss(
    server: ServerProcess, site: str, page: Page, asked: list[str]
) -> None:
    scripted = ScriptedRun(server, "r")
    page.goto(f"{site}/?server={server.url}")
    tokens(scripted, "before ")
    shows(page, "running open 2, 0 gaps", "before")
    button = page.get_by_role("button")
    # At once hidden and shown again: the connection stays.
    button.click()
    button.click()
    tokens(scripted, "between ")
    shows(page, "running open 3, 0 gaps", "before between")
    assert len(asked) == 1
    with page.expect_event("requestfailed", lambda request: "/events" in request.url):
        button.click()
    tokens(scripted, "meanwhile")
    button.click()
    shows(page, "running open 4, 0 gaps", "before between meanwhile")
    assert len(asked) == 2
    assert "after=" in asked[1]


def test_a_tab_that_was_frozen_goes_on_behind_the_last_record(
    server: ServerProcess, site: str, page: Page, chromium: Browser
) -> None:
    scripted = ScriptedRun(server, "r")
    page.goto(f"{site}/?server={server.url}")
    tokens(scripted, "awake ")
    shows(page, "running open 2, 0 gaps", "awake")
    with asleep(chromium):
        tokens(scripted, "asleep ")
        server.restart()  # its connections do not outlive a long sleep
        tokens(scripted, "still ")
    tokens(scripted, "back")
    shows(page, "running open 5, 0 gaps", "awake asleep still back")


def test_a_connection_that_fell_silent_is_made_again(
    server: ServerProcess, site: str, page: Page, asked: list[str]
) -> None:
    page.clock.install()
    scripted = ScriptedRun(server, "r")
    tokens(scripted, "before ")
    page.goto(f"{site}/?server={server.url}")
    shows(page, "running open 2, 0 gaps", "before")
    server.pause()
    with page.expect_request(lambda request: "/events" in request.url):
        page.clock.fast_forward(2 * SILENCE_MS)
    server.resume()
    tokens(scripted, "after")
    shows(page, "running open 3, 0 gaps", "before after")
    assert len(asked) == 2


def test_a_stream_that_was_rebuilt_is_shown_from_its_new_beginning(
    server: ServerProcess, site: str, page: Page
) -> None:
    tokens(ScriptedRun(server, "r"), "old ", "text")
    page.goto(f"{site}/?server={server.url}")
    shows(page, "running open 3, 0 gaps", "old text")
    page.context.set_offline(True)  # so that it does not come between
    server.kill()
    log = Path(server.log_url.removeprefix("sqlite:"))
    for file in log.parent.glob(f"{log.name}*"):
        file.unlink()
    server.start()
    tokens(ScriptedRun(server, "r"), "new")
    page.context.set_offline(False)
    shows(page, "running open 2, 1 gaps", "new")


def test_a_hidden_tab_keeps_up_and_is_right_when_it_is_looked_at(
    server: ServerProcess, site: str, page: Page
) -> None:
    scripted = ScriptedRun(server, "r")
    page.goto(f"{site}/?server={server.url}")
    shows(page, "running open 1, 0 gaps", "")
    hide = """(state) => {
      Object.defineProperty(document, "visibilityState", { value: state, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(hide, "hidden")
    before: list[float] = page.evaluate("[commits, performance.now()]")
    for _ in range(100):
        tokens(scripted, "x")
    shows(page, "running open 101, 0 gaps", "x" * 100)
    after: list[float] = page.evaluate("[commits, performance.now()]")
    assert after[0] - before[0] <= (after[1] - before[1]) / HIDDEN_MS + 2
    page.evaluate(hide, "visible")
    tokens(scripted, "!")
    shows(page, "running open 102, 0 gaps", "x" * 100 + "!")


def test_many_records_are_drawn_once_a_frame(server: ServerProcess, site: str, page: Page) -> None:
    scripted = ScriptedRun(server, "r")
    page.goto(f"{site}/?server={server.url}")
    shows(page, "running open 1, 0 gaps", "")
    before: list[int] = page.evaluate("[commits, drawn]")
    for _ in range(100):
        tokens(scripted, *"x" * 50)
    shows(page, "running open 5001, 0 gaps", "x" * 5000)
    after: list[int] = page.evaluate("[commits, drawn]")
    assert after[0] - before[0] <= after[1] - before[1] + 1


def test_a_site_that_the_server_does_not_list_is_told_so(
    tmp_path: Path, sqlite_url: str, site: str, chromium: Browser
) -> None:
    with running_server(tmp_path, sqlite_url, "--cors-origin", "https://example.com") as server:
        ScriptedRun(server, "r")
        page = chromium.new_page()
        page.goto(f"{site}/?server={server.url}")
        expect(page.locator("#run")).to_have_text("undefined reconnecting 0, 0 gaps")
        page.close()
