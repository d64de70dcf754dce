"""Starting workflows from the console: a form made of their schema, and what keeps it from being sent."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from server_process import ServerProcess, running_server

FLOWS = '''
from enum import Enum
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from runstream import StartEvent, StopEvent, Workflow, pipeline, step


class Tone(Enum):
    warm = "warm"
    cold = "cold"


class Author(BaseModel):
    """Who writes."""

    name: str = Field(min_length=2)
    born: int | None = None
    tone: Tone = Tone.warm


class Order(StartEvent):
    topic: str
    lines: int = Field(3, ge=1, le=10)
    style: Literal["haiku", "sonnet"] = "haiku"
    author: Author
    critic: Author | None = None
    tags: Annotated[list[str], Field(max_length=2)] = ["spring"]
    weights: dict[str, float] = {}
    rhyme: bool = True
    sign: Author | str | None = None


class Poem(Workflow):
    """Writes a poem."""

    @step
    async def write(self, ev: Order) -> StopEvent:
        return StopEvent(result=ev.lines)


class Anything(Workflow):
    @step
    async def go(self, ev: StartEvent) -> StopEvent:
        return StopEvent(result="gone")


@pipeline
async def even(number: int) -> int:
    if number % 2:
        raise ValueError("that is odd")
    return number
'''


@pytest.fixture
def flows(tmp_path: Path, sqlite_url: str) -> Generator[ServerProcess]:
    """A server that starts the workflows above."""
    (tmp_path / "flows.py").write_text(FLOWS)
    targets = [f"{tmp_path}/flows.py:{name}" for name in ("Poem", "Anything", "even")]
    with running_server(tmp_path, sqlite_url, *targets) as running:
        yield running


def input_of(server: ServerProcess, run_id: str) -> dict[str, Any]:
    """What the run was started with."""
    path = f"/v1/runs/{run_id}/events?kinds=run.started"
    page = server.call("GET", path, headers={"accept": "application/json"}).json
    given: dict[str, Any] = page["records"][0]["data"]["input"]
    return given


def test_a_workflow_is_started_from_a_form_made_of_its_schema(
    flows: ServerProcess, page: Page
) -> None:
    page.goto(flows.url)
    page.get_by_role("link", name="Start").click()
    page.get_by_role("link", name="Poem").click()
    page.get_by_label("Topic").fill("rain")
    assert page.get_by_label("Lines").input_value() == "3"
    page.get_by_label("Lines").fill("4")
    page.get_by_label("Style").select_option("sonnet")
    author = page.get_by_role("group", name="Author")
    author.get_by_label("Name").fill("Bashō")
    author.get_by_label("Tone").select_option("cold")
    page.get_by_role("button", name="Add to Tags").click()
    page.get_by_role("textbox", name="Tags 2").fill("frog")
    expect(page.get_by_role("button", name="Add to Tags")).to_be_disabled()
    page.get_by_label("Weights").fill('{"a": 0.5}')
    page.get_by_label("Rhyme").uncheck()
    page.get_by_label("Run id").fill("poem-1")
    page.get_by_role("button", name="Start Poem").click()
    expect(page.get_by_role("heading", name="poem-1")).to_be_visible()
    expect(page.get_by_role("heading", name="completed")).to_be_visible()
    page.get_by_text("Input").click()
    expect(page.locator("details pre")).to_contain_text('"topic": "rain"')
    assert input_of(flows, "poem-1") == {
        "topic": "rain",
        "lines": 4,
        "style": "sonnet",
        "author": {"name": "Bashō", "born": None, "tone": "cold"},
        "critic": None,
        "tags": ["spring", "frog"],
        "weights": {"a": 0.5},
        "rhyme": False,
        "sign": None,
    }


def test_optional_parts_are_added_and_one_of_several_kinds_is_chosen(
    flows: ServerProcess, page: Page
) -> None:
    page.goto(f"{flows.url}/#/start/Poem")
    page.get_by_label("Topic").fill("rain")
    page.get_by_role("group", name="Author").get_by_label("Name").fill("Bashō")
    critic = page.get_by_role("group", name="Critic")
    critic.get_by_role("button", name="Add Critic").click()
    critic.get_by_label("Name").fill("Buson")
    critic.get_by_label("Born").fill("1716")
    page.get_by_role("button", name="Remove Tags 1").click()
    page.get_by_label("Kind of Sign").select_option("string")
    page.get_by_label("Sign", exact=False).last.fill("anonymous")
    page.get_by_label("Run id").fill("poem-1")
    page.get_by_role("button", name="Start Poem").click()
    expect(page.get_by_role("heading", name="poem-1")).to_be_visible()
    given = input_of(flows, "poem-1")
    assert given["critic"] == {"name": "Buson", "born": 1716, "tone": "warm"}
    assert given["tags"] == []
    assert given["sign"] == "anonymous"


def test_what_the_schema_forbids_is_told_before_it_is_sent(
    flows: ServerProcess, page: Page
) -> None:
    page.goto(f"{flows.url}/#/start/Poem")
    send = page.get_by_role("button", name="Start Poem")

    def complaint(label: str) -> str:
        send.click()
        field = page.get_by_label(label)
        expect(field).to_be_focused()
        said: str = field.evaluate("(field) => field.validationMessage")
        return said

    assert complaint("Topic")
    page.get_by_label("Topic").fill("rain")
    page.get_by_label("Lines").fill("11")
    assert "10" in complaint("Lines")
    page.get_by_label("Lines").fill("10")
    page.get_by_role("group", name="Author").get_by_label("Name").press_sequentially("B")
    assert "2" in complaint("Name")
    page.get_by_label("Name").fill("Bashō")
    page.get_by_label("Weights").fill("{half")
    assert "not JSON" in complaint("Weights")
    assert flows.call("GET", "/v1/runs").json["runs"] == []


def test_what_only_the_server_can_refuse_is_shown_fault_by_fault(
    flows: ServerProcess, page: Page
) -> None:
    page.goto(f"{flows.url}/#/start/Poem")
    page.get_by_role("button", name="Edit as JSON").click()
    page.get_by_label("Input").fill('{"topic": 5, "lines": 50, "author": {"name": "x"}}')
    page.get_by_role("button", name="Start Poem").click()
    faults = page.get_by_role("alert").get_by_role("listitem")
    expect(faults).to_have_count(3)
    expect(faults.nth(2)).to_contain_text("author.name: String should have at least 2")
    page.get_by_label("Input").fill('{"topic": "rain", "author": {"name": "Bashō"}}')
    page.get_by_role("button", name="Edit as a form").click()
    expect(page.get_by_label("Topic")).to_have_value("rain")
    page.get_by_role("button", name="Start Poem").click()
    expect(page.get_by_role("heading", name="completed")).to_be_visible()


def test_a_workflow_that_takes_anything_takes_json_and_a_pipeline_its_parameters(
    flows: ServerProcess, page: Page
) -> None:
    page.goto(f"{flows.url}/#/start/Anything")
    page.get_by_label("Input").fill('{"fruit": "apple"}')
    page.get_by_label("Run id").fill("any-1")
    page.get_by_role("button", name="Start Anything").click()
    expect(page.get_by_text("Result gone")).to_be_visible()
    assert input_of(flows, "any-1") == {"fruit": "apple"}
    page.goto(f"{flows.url}/#/start/even")
    page.get_by_label("Number").fill("3")
    page.get_by_role("button", name="Start even").click()
    expect(page.get_by_text("ValueError: that is odd").first).to_be_visible()


def test_a_taken_run_id_and_an_unknown_workflow_are_told(flows: ServerProcess, page: Page) -> None:
    for _ in range(2):
        page.goto(f"{flows.url}/#/start/Nothing")
        expect(page.get_by_role("alert")).to_contain_text("does not start Nothing")
        page.goto(f"{flows.url}/#/start/Anything")
        page.get_by_label("Run id").fill("any-1")
        page.get_by_role("button", name="Start Anything").click()
        expect(
            page.get_by_role("heading", name="any-1").or_(page.get_by_role("alert"))
        ).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("any-1")
