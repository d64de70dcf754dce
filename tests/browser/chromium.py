"""A real browser: Debian's Chromium, driven by Playwright. Missing, it is a skip at home, an error in CI."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

# A guard against hanging (ms); what a test waits for takes a fraction of it.
WAIT_MS_MAX = 30_000
# (Playwright's own for what is expected of a page is 5 s.)
expect.set_options(timeout=WAIT_MS_MAX)


@pytest.fixture(scope="module")
def chromium() -> Generator[Browser]:
    """One browser for the tests of a file; each opens contexts of its own, which share nothing.

    (Not for the session: while it lives, Playwright holds this thread's event loop.)
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        reason = "no chromium here: `make services` installs it"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"], timeout=2 * WAIT_MS_MAX
        )
        yield browser
        browser.close()


@pytest.fixture
def page(chromium: Browser) -> Generator[Page]:
    """A tab in a context of its own. A script that fails, or asks a stranger, fails the test."""
    context = chromium.new_context(viewport={"width": 1200, "height": 800})
    context.set_default_timeout(WAIT_MS_MAX)
    tab = context.new_page()
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on(
        "console",
        lambda said: problems.append(said.text) if "Content Security" in said.text else None,
    )
    yield tab
    context.close()
    assert not problems, problems
