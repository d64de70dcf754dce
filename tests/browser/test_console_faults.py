"""The console when something is wrong: with a run, with a clock, with a token, with the way to the server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
from playwright.sync_api import Locator, Page, Route, expect

from browser.runs import ScriptedRun, retried_poem, step
from server_process import ServerProcess, running_server


def at(ago_s: float) -> str:
    return (datetime.now(UTC) - timedelta(seconds=ago_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def test_a_failed_run_says_why_and_leads_to_its_records(server: ServerProcess, page: Page) -> None:
    run = ScriptedRun(server, "poem-1")
    error = {"type": "OSError", "message": "connection reset"}
    run.say("step.started", {}, **step(1))
    run.say("step.retrying", {"attempt": 1, "error": error, "delay": 0}, **step(1))
    run.say("step.started", {}, **step(1, attempt=2))
    run.say(
        "step.failed", {"error": {"type": "TimeoutError", "message": "5 s"}}, **step(1, attempt=2)
    )
    run.say("run.failed", {"exception": {"type": "TimeoutError", "message": "5 s"}}, final=True)
    page.goto(f"{server.url}/#/runs/poem-1")
    expect(page.get_by_text("failed: TimeoutError: 5 s")).to_be_visible()
    page.get_by_role("button", name="write").press("Enter")
    attempts = page.get_by_role("listitem").filter(has_text="Attempt 1")
    expect(attempts.last).to_contain_text("OSError: connection reset")
    page.get_by_role("link", name="records 4 to 5").click()
    expect(page.get_by_role("complementary", name="Record 4")).to_contain_text("step.started")
    # The address names what is shown: a reload shows it again.
    page.get_by_role("listbox", name="Records").press("ArrowDown")
    expect(page.get_by_role("complementary", name="Record 5")).to_be_visible()
    page.reload()
    expect(page.get_by_role("complementary", name="Record 5")).to_contain_text("step.failed")


def test_a_link_to_a_record_leads_to_it_in_a_low_window(server: ServerProcess, page: Page) -> None:
    page.set_viewport_size({"width": 1000, "height": 560})
    run = ScriptedRun(server, "poem-1")
    run.say_all([{"kind": "token", "data": {"text": str(number)}} for number in range(200)])
    page.goto(f"{server.url}/#/runs/poem-1?tab=records&seq=100")
    expect(page.get_by_role("complementary", name="Record 100")).to_be_visible()
    row = page.get_by_role("listbox", name="Records").get_by_role("option", selected=True)
    expect(row).to_contain_text("100")
    expect(row).to_be_in_viewport()


def test_older_runs_are_found_however_many_came_after(server: ServerProcess, page: Page) -> None:
    for name in ["needle", *(f"hay-{number}" for number in range(220))]:
        assert server.call("PUT", f"/v1/runs/{name}", {"workflow": "poem"}).status == 201
    page.goto(server.url)
    rows = page.get_by_role("row")
    expect(rows).to_have_count(101)
    page.get_by_role("button", name="Show older runs").click()
    expect(rows).to_have_count(201)
    page.reload()
    expect(rows).to_have_count(101)
    page.get_by_label("Search").fill("needle")
    expect(page.get_by_role("row", name="needle")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("1 found")


def test_this_machines_clock_does_not_matter(server: ServerProcess, page: Page) -> None:
    page.clock.install(time=datetime.now(UTC) + timedelta(days=3))
    run = ScriptedRun(server, "poem-1")
    run.say("step.started", {}, time=at(2), **step(1))
    page.goto(f"{server.url}/#/runs/poem-1")
    bar = page.get_by_role("listitem", name="write: running").locator(".attempt")
    expect(bar).to_be_visible()
    for text in page.locator("dl div", has_text="For").locator("dd").all_inner_texts():
        assert " h " not in text, text
    last = page.locator(".marks span").last.inner_text()
    assert " h " not in last, last


def test_producers_whose_clocks_disagree_are_drawn_inside(
    server: ServerProcess, page: Page
) -> None:
    run = ScriptedRun(server, "poem-1")
    run.say("step.started", {}, time=at(5), **step(1))
    run.say("step.started", {}, time=at(3600), **step(2, "behind"))
    run.say("step.completed", {}, time=at(7200), **step(2, "behind"))
    run.say("step.started", {}, time=at(-86400), **step(3, "ahead"))
    run.say("step.completed", {}, time=at(4), **step(1))
    run.say("token", {"text": "a"}, time="1970-01-01T00:00:00Z")
    run.say("token", {"text": "b"}, time="9999-12-31T23:59:59Z")
    page.goto(f"{server.url}/#/runs/poem-1")
    expect(page.locator(".attempt")).to_have_count(3)
    for scale in ("time", "records"):
        page.get_by_role("radio", name=scale).check()
        inside = page.locator(".attempt").evaluate_all(
            """(bars) => bars.every((bar) => {
              const percent = (css) => parseFloat(/[\\d.]+%/.exec(css)[0]);
              const [left, width] = [percent(bar.style.left), percent(bar.style.width)];
              // One that takes no time at the very end is still to be seen.
              const [box, track] = [bar, bar.parentElement].map((part) => part.getBoundingClientRect());
              return left >= 0 && width >= 0 && left + width <= 100.001 && box.right <= track.right + 0.5;
            })"""
        )
        assert inside, scale
    page.goto(f"{server.url}/#/runs/poem-1?tab=throughput")
    expect(page.get_by_role("row", name="token 2")).to_be_visible()
    page.goto(f"{server.url}/#/runs/poem-1?tab=records")
    expect(page.get_by_role("listbox", name="Records").get_by_role("option")).to_have_count(8)


def test_lag_gaps_and_drops_are_told_and_drawn(server: ServerProcess, page: Page) -> None:
    run = ScriptedRun(server, "poem-1")
    retried_poem(run)
    run.say("stream.dropped", {"count": 7, "reason": "queue_full"})
    assert server.call("POST", "/v1/runs/poem-1/trim", {"through": 5}).status == 204
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/events?*", hold)
    page.goto(f"{server.url}/#/runs/poem-1")
    expect(page.get_by_text("Lag11 records")).to_be_visible()
    expect(page.get_by_text("0 of 11")).to_be_visible()
    expect(page.get_by_text("Streamconnecting")).to_be_visible()
    for route in held:
        route.continue_()
    page.unroute("**/events?*", hold)
    expect(page.get_by_text("Lagnone")).to_be_visible()
    expect(page.get_by_text("11 of 11")).to_be_visible()
    expect(page.get_by_text("Dropped by producers7")).to_be_visible()
    expect(page.get_by_text("records 1 to 5 cannot be had: trimmed")).to_be_visible()
    hole = page.locator(".scrubber .hole")
    expect(hole).to_have_attribute("title", "records 1 to 5 cannot be had: trimmed")
    assert hole.evaluate("(hole) => [hole.style.left, hole.style.width]") == ["0%", "max(3px, 50%)"]


def test_a_server_that_goes_is_told_and_comes_back_by_itself(
    server: ServerProcess, page: Page
) -> None:
    run = ScriptedRun(server, "poem-1")
    page.goto(f"{server.url}/#/runs/poem-1")
    expect(page.get_by_text("Streamlive")).to_be_visible()
    server.kill()
    expect(page.get_by_text("Streamreconnecting")).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    server.start()
    expect(page.get_by_text("Streamlive")).to_be_visible(timeout=30_000)
    expect(page.get_by_role("alert")).to_have_count(0)
    run.say("token", {"text": "x"})
    expect(page.get_by_text("2 of 2")).to_be_visible()


def test_a_stream_that_was_rebuilt_is_told_and_shown_from_its_new_beginning(
    tmp_path: Path, page: Page
) -> None:
    log = tmp_path / "events.db"
    with running_server(tmp_path, f"sqlite:{log}") as server:
        run = ScriptedRun(server, "poem-1")
        run.say_all([{"kind": "token", "data": {"text": "old "}} for _ in range(5)])
        page.goto(f"{server.url}/#/runs/poem-1?tab=text")
        expect(page.locator(".prose")).to_have_text("old old old old old")
        page.context.set_offline(True)  # so that it does not come between
        server.kill()
        for file in tmp_path.glob("events.db*"):
            file.unlink()
        server.start()
        again = ScriptedRun(server, "poem-1")
        again.say("token", {"text": "new"})
        page.context.set_offline(False)
        expect(page.get_by_text("the stream was rebuilt")).to_be_visible(timeout=30_000)
        expect(page.locator(".prose")).to_have_text("new")
        expect(page.get_by_text("2 of 2")).to_be_visible()
        page.get_by_role("tab", name="Records").click()
        rows = page.get_by_role("listbox", name="Records").get_by_role("option")
        expect(rows).to_have_count(2)
        expect(rows.last).to_contain_text('text: "new"')


def test_a_token_is_asked_for_kept_and_changed(tmp_path: Path, sqlite_url: str, page: Page) -> None:
    with running_server(tmp_path, sqlite_url) as open_server:
        ScriptedRun(open_server, "poem-1")
    secret = tmp_path / "secret"
    secret.write_text("k" * 48, encoding="utf-8")
    secret.chmod(0o600)
    with running_server(tmp_path, sqlite_url, "--jwt-secret", str(secret)) as server:
        page.goto(server.url)
        expect(page.get_by_role("alert")).to_contain_text("wants a token")
        page.get_by_label("Token").fill("nonsense")
        page.get_by_role("button", name="Use it in this tab").click()
        expect(page.get_by_role("alert")).to_contain_text("does not take this token")
        page.get_by_label("Token").fill(token("runs:start"))
        page.get_by_role("button", name="Use it in this tab").click()
        page.get_by_role("button", name="Use another token").click()
        page.get_by_label("Token").fill(token("runs:read"))
        page.get_by_role("button", name="Use it in this tab").click()
        page.get_by_role("link", name="poem-1").click()
        expect(page.get_by_text("Streamlive")).to_be_visible()
        page.reload()
        expect(page.get_by_text("Streamlive")).to_be_visible()
        # It may read, and no more.
        page.once("dialog", lambda dialog: dialog.accept())
        page.get_by_role("button", name="Cancel the run").click()
        expect(page.get_by_role("alert")).to_contain_text("runs:write")


def token(scope: str) -> str:
    claims = {"sub": "person", "scope": scope, "exp": datetime.now(UTC) + timedelta(hours=1)}
    return jwt.encode(claims, "k" * 48, algorithm="HS256")


def test_a_way_that_answers_in_html_is_told_and_breaks_nothing(
    server: ServerProcess, page: Page
) -> None:
    page.route(
        "**/v1/**",
        lambda route: route.fulfill(body="<html>Please log in", content_type="text/html"),
    )
    for place in ("", "runs/poem-1", "start"):
        page.goto(f"{server.url}/#/{place}")
        expect(page.get_by_role("alert")).to_contain_text("answered")
        expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_payloads_that_are_not_what_their_kind_promises_break_nothing(
    server: ServerProcess, page: Page
) -> None:
    odd = {"toString": 1, "valueOf": 1, "toJSON": 1}
    run = ScriptedRun(server, "poem-1")
    for data in (odd, [odd], "text", 5, None):
        run.say("run.started", {"workflow": data, "parent_run_id": data, "input": data})
        run.say("step.started", data, **step(1))
        run.say("step.retrying", {"attempt": data, "error": data}, **step(1))
        run.say("step.failed", {"error": {"type": data, "message": data}}, **step(2))
        run.say("token", {"text": data})
        run.say("task.started", {"task_id": data, "version": data, "state": data}, topic="t")
        run.say(
            "task.failed", {"task_id": "a", "version": 1, "state": data, "error": data}, topic="t"
        )
        run.say("InputRequiredEvent", {"prefix": data, "other": data})
        run.say("run.signal", {"type": "HumanResponseEvent", "event": data})
        run.say("stream.dropped", {"count": data})
        run.say("run.cancel_requested", data)
    run.say("run.failed", {"exception": odd}, final=True)
    for tab in ("timeline", "records", "text", "tasks", "throughput"):
        page.goto(f"{server.url}/#/runs/poem-1?tab={tab}&seq=5")
        expect(page.get_by_text("57 of 57")).to_be_visible()
        expect(page.get_by_role("tab", selected=True)).to_have_text(tab.capitalize())
    page.goto(f"{server.url}/#/runs/poem%E0%A4%A")
    expect(page.get_by_role("alert")).to_be_visible()


def test_the_whole_way_is_gone_without_a_mouse(server: ServerProcess, page: Page) -> None:
    retried_poem(ScriptedRun(server, "poem-1"))
    page.goto(server.url)
    expect(page.get_by_role("row", name="poem-1")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()

    def tab_to(wanted: Locator) -> None:
        for _ in range(40):
            if wanted.evaluate("(element) => element === document.activeElement"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"no way to {wanted}")

    tab_to(page.get_by_role("link", name="poem-1"))
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    expect(page.get_by_role("main")).to_be_focused()
    tab_to(page.get_by_role("textbox", name="Is it good?"))
    page.keyboard.type("yes")
    tab_to(page.get_by_role("tab", name="Timeline"))
    page.keyboard.press("ArrowRight")
    tab_to(page.get_by_role("listbox", name="Records"))
    page.keyboard.press("Home")
    tab_to(page.get_by_role("button", name="Close"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("listbox", name="Records")).to_be_focused()
