"""The console for keyboards and screen readers: light and dark, wide and narrow."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from playwright.sync_api import Browser, Page, expect

from browser.runs import ScriptedRun, retried_poem
from clients.npm import ROOT, installed, node_or_skip
from server_process import ServerProcess

VIEWS = ("timeline", "records", "text", "tasks", "throughput")
# What WCAG 2.2 AA asks for, and axe's own advice.
AUDIT = """async () => {
  const { violations } = await axe.run(document);
  return violations.map(({ id, nodes }) => [id, nodes.map((node) => [node.html, node.failureSummary])]);
}"""


@pytest.fixture(scope="module")
def axe() -> str:
    node_or_skip()
    console = installed(ROOT / "clients" / "console")
    return (console / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


def audit(page: Page, axe: str) -> list[Any]:
    page.evaluate(axe)
    found: list[Any] = page.evaluate(AUDIT)
    return found


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 390)])
def test_no_view_has_a_fault_that_axe_finds(
    server: ServerProcess,
    chromium: Browser,
    axe: str,
    scheme: Literal["light", "dark"],
    width: int,
) -> None:
    retried_poem(ScriptedRun(server, "poem-1"))
    ended = ScriptedRun(server, "poem-2")
    error = {"type": "OSError", "message": "reset"}
    ended.say("run.failed", {"exception": error}, final=True)
    context = chromium.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, bypass_csp=True
    )
    page = context.new_page()
    faults: dict[str, list[Any]] = {}
    page.goto(server.url)
    expect(page.get_by_role("row", name="poem-1")).to_be_visible()
    faults["runs"] = audit(page, axe)
    for view in VIEWS:
        page.goto(f"{server.url}/#/runs/poem-1?tab={view}&seq=3")
        expect(page.get_by_text("10 of 10")).to_be_visible()
        expect(page.get_by_label("Is it good?")).to_be_visible()
        if view == "timeline":
            page.get_by_role("button", name="write").click()
        faults[view] = audit(page, axe)
    page.goto(f"{server.url}/#/runs/poem-2")
    expect(page.get_by_text("OSError: reset")).to_be_visible()
    faults["failed"] = audit(page, axe)
    page.goto(f"{server.url}/#/runs/nobody")
    expect(page.get_by_role("alert")).to_be_visible()
    faults["unknown"] = audit(page, axe)
    page.goto(f"{server.url}/#/start")
    expect(page.get_by_text("offers no workflows")).to_be_visible()
    faults["start"] = audit(page, axe)
    context.close()
    assert not any(faults.values()), json.dumps(faults, indent=1)
