"""The console in a real browser, over a real server."""

from __future__ import annotations

import json
from typing import Any

from playwright.sync_api import Browser, Locator, Page, expect

from browser.runs import ScriptedRun, retried_poem
from server_process import ServerProcess


def rows_of(page: Page) -> Locator:
    """The records in view."""
    return page.get_by_role("listbox", name="Records").get_by_role("option")


def signals(server: ServerProcess, run_id: str) -> list[dict[str, Any]]:
    page = server.call("GET", f"/v1/runs/{run_id}/events", headers={"accept": "application/json"})
    return [record["data"] for record in page.json["records"] if record["kind"] == "run.signal"]


def test_the_list_shows_runs_as_they_come_and_change(server: ServerProcess, page: Page) -> None:
    page.goto(server.url)
    expect(page.get_by_text("No runs yet.")).to_be_visible()
    run = ScriptedRun(server, "poem-1")
    row = page.get_by_role("row", name="poem-1")
    expect(row.get_by_text("running")).to_be_visible()
    run.end()
    expect(row.get_by_text("completed")).to_be_visible()
    ScriptedRun(server, "essay-1", "essay")
    expect(page.get_by_role("row", name="essay-1")).to_be_visible()
    page.get_by_label("Search").fill("ESSAY")
    expect(row).to_have_count(0)
    page.get_by_label("Search").fill("")
    page.get_by_label("Status").select_option("completed")
    expect(row).to_be_visible()
    expect(page.get_by_role("row", name="essay-1")).to_have_count(0)


def test_the_timeline_strikes_out_what_was_tried_again(server: ServerProcess, page: Page) -> None:
    run = ScriptedRun(server, "poem-1")
    page.goto(f"{server.url}/#/runs/poem-1")
    retried_poem(run)
    write = page.get_by_role("listitem", name="write: completed, 2 attempts")
    expect(write).to_be_visible()
    expect(write.locator(".attempt.discarded del")).to_have_count(1)
    expect(write.locator(".attempt.completed")).to_have_count(1)
    expect(page.get_by_role("listitem", name="illustrate: waits for an answer")).to_be_visible()
    expect(page.get_by_text("10 of 10")).to_be_visible()


def test_the_text_strikes_out_what_failed_attempts_wrote(server: ServerProcess, page: Page) -> None:
    retried_poem(ScriptedRun(server, "poem-1"))
    page.goto(f"{server.url}/#/runs/poem-1?tab=text")
    prose = page.locator(".prose")
    expect(prose).to_have_text("Roses are blueRoses are red")
    expect(prose.locator("del")).to_have_text("Roses are blue")


def test_a_tasks_state_is_shown_as_it_changes(server: ServerProcess, page: Page) -> None:
    run = ScriptedRun(server, "poem-1")
    retried_poem(run)
    page.goto(f"{server.url}/#/runs/poem-1?tab=tasks")
    expect(page.locator(".task pre")).to_contain_text('"lines": 1')
    patch = [{"op": "replace", "path": "/lines", "value": 2}]
    run.say("task.progress", {"task_id": "t", "version": 1, "patch": patch}, topic="progress")
    expect(page.locator(".task pre")).to_contain_text('"lines": 2')


def test_a_question_is_answered_in_a_form(server: ServerProcess, page: Page) -> None:
    retried_poem(ScriptedRun(server, "poem-1"))
    page.goto(f"{server.url}/#/runs/poem-1")
    page.get_by_label("Is it good?").fill("very")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Is it good?")).to_have_count(0)
    [signal] = signals(server, "poem-1")
    assert signal == {"type": "HumanResponseEvent", "event": {"verse": 7, "response": "very"}}


def test_a_run_is_cancelled_after_a_question(server: ServerProcess, page: Page) -> None:
    ScriptedRun(server, "poem-1")
    page.goto(f"{server.url}/#/runs/poem-1?tab=records")
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Cancel the run").click()
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel the run").click()
    expect(rows_of(page).filter(has_text="run.cancel_requested")).to_have_count(1)


def test_the_records_are_walked_and_filtered_by_keyboard(server: ServerProcess, page: Page) -> None:
    run = ScriptedRun(server, "poem-1")
    retried_poem(run)
    page.goto(f"{server.url}/#/runs/poem-1?tab=records")
    expect(rows_of(page)).to_have_count(10)
    page.get_by_role("listbox").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    envelope = page.get_by_role("complementary", name="Record 2")
    expect(envelope.locator("pre")).to_contain_text('"step_run_id": "s.1"')
    page.get_by_label("Kind").fill("token")
    page.keyboard.press("Enter")
    expect(rows_of(page)).to_have_count(2)
    run.say("token", {"text": "!"}, correlation_id="verse")
    expect(rows_of(page)).to_have_count(3)
    page.get_by_role("button", name="All").click()
    expect(rows_of(page)).to_have_count(11)


def test_the_tabs_are_moved_through_by_arrows(server: ServerProcess, page: Page) -> None:
    ScriptedRun(server, "poem-1")
    page.goto(f"{server.url}/#/runs/poem-1")
    page.get_by_role("tab", name="Timeline").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="Records")).to_be_focused()
    expect(page.get_by_role("listbox", name="Records")).to_be_visible()


def test_the_scrubber_shows_the_run_as_it_was_and_plays_on(
    server: ServerProcess, page: Page
) -> None:
    run = ScriptedRun(server, "poem-1")
    retried_poem(run)
    page.goto(f"{server.url}/#/runs/poem-1?tab=text")
    expect(page.locator(".prose")).to_have_text("Roses are blueRoses are red")
    page.get_by_label("Show the run after record").fill("4")
    expect(page.locator(".prose")).to_have_text("Roses are blue")
    expect(page.locator(".prose del")).to_have_count(0)
    # What comes meanwhile is not shown, but it is not lost.
    run.say("token", {"text": " indeed"}, correlation_id="verse")
    page.get_by_label("Speed").select_option("100")
    page.get_by_role("button", name="Play").click()
    expect(page.locator(".prose")).to_have_text("Roses are blueRoses are red indeed")
    page.get_by_role("button", name="Live").click()
    expect(page.locator("output")).to_have_text("live")
    expect(page.locator(".prose")).to_have_text("Roses are blueRoses are red indeed")


def test_trimmed_records_are_told_as_a_gap(server: ServerProcess, page: Page) -> None:
    retried_poem(ScriptedRun(server, "poem-1"))
    assert server.call("POST", "/v1/runs/poem-1/trim", {"through": 5}).status == 204
    page.goto(f"{server.url}/#/runs/poem-1?tab=records")
    expect(page.locator(".gap")).to_contain_text("records 1 to 5 cannot be had: trimmed")
    expect(rows_of(page)).to_have_count(5)
    expect(rows_of(page).first).to_contain_text("6")


def test_the_chart_counts_the_records(server: ServerProcess, page: Page) -> None:
    retried_poem(ScriptedRun(server, "poem-1"))
    page.goto(f"{server.url}/#/runs/poem-1?tab=throughput")
    expect(page.get_by_role("row", name="token 2")).to_be_visible()
    expect(page.get_by_role("img", name="Records per second")).to_be_visible()


def test_a_phone_and_the_dark_show_everything(server: ServerProcess, chromium: Browser) -> None:
    retried_poem(ScriptedRun(server, "poem-1"))
    context = chromium.new_context(
        viewport={"width": 390, "height": 800}, color_scheme="dark", has_touch=True
    )
    page = context.new_page()
    for tab in ("timeline", "records", "text", "tasks", "throughput"):
        page.goto(f"{server.url}/#/runs/poem-1?tab={tab}")
        expect(page.get_by_role("tab", selected=True)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), tab
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 23, 30)"
    context.close()


def test_an_unknown_run_says_so(server: ServerProcess, page: Page) -> None:
    page.goto(f"{server.url}/#/runs/nobody")
    expect(page.get_by_role("alert")).to_contain_text("no such run")


def test_hostile_payloads_can_do_nothing(server: ServerProcess, page: Page) -> None:
    run = ScriptedRun(server, "poem-1", "<img src=x onerror=alert(1)>")
    page.on("dialog", lambda _dialog: (_ for _ in ()).throw(AssertionError("a script ran")))
    attack = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    run.say("token", {"text": attack}, correlation_id=attack)
    run.say(attack, {attack: attack})
    run.say("progress", {"text": "safe \u202egnp.exe\u2066 \u200bhidden"})
    run.say("progress", {"blob": "x" * 1_000_000})
    run.say("progress", {f"key {number}": number for number in range(10_000)})
    run.say("progress", {"__proto__": {"polluted": True}, "constructor": 1})
    run.say("InputRequiredEvent", {"prefix": attack, "other": attack})
    page.goto(f"{server.url}/#/runs/poem-1?tab=records")
    rows = rows_of(page)
    expect(rows).to_have_count(8)
    expect(rows.nth(3)).to_contain_text("safe \\u202egnp.exe\\u2066 \\u200bhidden")
    for number in range(8):
        rows.nth(number).click()
        expect(page.get_by_role("complementary")).to_contain_text(f'"seq": {number + 1}')
    for tab in ("timeline", "text", "tasks", "throughput"):
        page.goto(f"{server.url}/#/runs/poem-1?tab={tab}")
        expect(page.get_by_role("tab", selected=True)).to_be_visible()
    page.goto(f"{server.url}/#/runs/poem-1?tab=text")
    expect(page.locator(".prose")).to_have_text(attack)
    assert page.evaluate("document.querySelectorAll('main script, main img').length") == 0
    assert page.evaluate("({}).polluted") is None
    assert json.loads(page.evaluate("JSON.stringify(Object.keys(Object.prototype))")) == []


def test_it_needs_nobody_else(server: ServerProcess, page: Page) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    expect(page.get_by_role("heading", name="Runs")).to_be_visible()
    assert all(url.startswith((server.url, "data:")) for url in asked), asked
