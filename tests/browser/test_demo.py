"""`runstream demo` prints an address, and there a browser sees the demo run."""

from __future__ import annotations

import signal

from playwright.sync_api import Page, expect

from command_process import started_command


def test_the_console_that_the_demo_names_shows_it_running(sqlite_url: str, page: Page) -> None:
    # (So slow that it goes on for as long as anybody looks.)
    words = ("demo", "--once", "--speed", "0.2", "--url", sqlite_url)
    with started_command("memory:", *words) as demo:
        assert demo.stdout is not None
        address = next(line for line in demo.stdout if line.startswith("console:")).split()[1]
        page.goto(address)
        expect(page.get_by_text("Streamlive")).to_be_visible()
        expect(page.get_by_role("heading", name="running")).to_be_visible()
        expect(page.locator(".attempt").first).to_be_visible()
        page.get_by_role("tab", name="Text").click()
        expect(page.get_by_role("article").first).to_contain_text("characters")
        demo.send_signal(signal.SIGINT)
        expect(page.get_by_role("heading", name="cancelled")).to_be_visible()
        demo.stdout.read()
