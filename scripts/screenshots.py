"""Take the pictures of docs/console.md anew: a server, a run that has something to show, and a browser.

Run it as `python scripts/screenshots.py` after the console has changed, and look at what it made.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Literal

from playwright.async_api import Browser, async_playwright
from pydantic import BaseModel, Field

from runstream import (
    Context,
    Event,
    Handler,
    HumanResponseEvent,
    InputRequiredEvent,
    Retry,
    RunCancelled,
    StartEvent,
    StopEvent,
    Task,
    Workflow,
    publish,
    step,
)

IMAGES = Path(__file__).parents[1] / "docs" / "images"
VERSES = ["An old silent pond", "A frog jumps into the pond", "Splash! Silence again."]
VIEWS = ("timeline", "records", "text", "tasks", "throughput")
# Failures of the first step, so that there is something to strike out.
FAILURES = 2


class Poet(BaseModel):
    name: str = "Matsuo Bashō"
    born: int | None = 1644


class Order(StartEvent):
    subject: str = "a frog"
    season: Literal["spring", "summer", "autumn", "winter"] = "spring"
    poet: Poet = Poet()
    words: list[str] = Field(["pond", "silence"])
    picture: bool = True


class Outline(Event):
    lines: int


class Poem(Event):
    text: str


class Picture(Event):
    name: str


class Haiku(Workflow):
    """Writes a haiku, draws a picture to it, and asks before it is published."""

    @step(retry=Retry(attempts=3, delay=0.4, jitter=False))
    async def outline(self, ctx: Context, _ev: Order) -> Outline:
        for word in ["Three", "lines:", "a", "pond,", "a", "frog,", "a", "sound."]:
            publish({"text": f"{word} "}, kind="token", correlation_id="outline")
            await asyncio.sleep(0.05)
        if ctx.attempt <= FAILURES:
            raise OSError("connection reset by the model")
        return Outline(lines=3)

    @step
    async def write(self, _ctx: Context, ev: Outline) -> Poem:
        async with Task("verses", {"done": 0, "of": ev.lines, "lines": list[str]()}) as task:
            for number, verse in enumerate(VERSES, 1):
                for word in verse.split():
                    publish({"text": f"{word} "}, kind="token", correlation_id="poem")
                    await asyncio.sleep(0.08)
                publish({"text": "\n"}, kind="token", correlation_id="poem")
                await task.append("lines", verse)
                await task.update_state({"done": number})
        return Poem(text="\n".join(VERSES))

    @step
    async def illustrate(self, _ctx: Context, _ev: Outline) -> Picture:
        for percent in range(0, 101, 10):
            publish({"percent": percent}, kind="progress", topic="picture")
            await asyncio.sleep(0.07)
        return Picture(name="frog.png")

    @step
    async def approve(self, ctx: Context, ev: Poem | Picture) -> StopEvent | None:
        if ctx.collect_events(ev, [Poem, Picture]) is None:
            return None
        question = InputRequiredEvent(prefix="Publish the haiku? ")
        answer = await ctx.wait_for_event(HumanResponseEvent, waiter_event=question)
        return StopEvent(result=answer.response)


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:{folder}/events.db"
        command = [sys.executable, "-m", "runstream", "serve", f"{__file__}:Haiku"]
        command += ["--url", url, "--port", str(port)]
        server = await asyncio.create_subprocess_exec(*command, stderr=subprocess.DEVNULL)
        try:
            for number in (1, 2):
                earlier = Haiku().run(url=url, run_id=f"haiku-{number}")
                await answered(earlier)
            handler = Haiku().run(url=url, run_id="haiku-3")
            await until_asked(handler)
            await take_all(f"http://127.0.0.1:{port}")
            await handler.cancel_run()
            with suppress(RunCancelled):
                await handler.result()
        finally:
            server.terminate()
            await server.wait()


async def until_asked(handler: Handler) -> None:
    async for event in handler.stream_events():
        if isinstance(event, InputRequiredEvent):
            return


async def answered(handler: Handler) -> None:
    await until_asked(handler)
    await handler.send_event(HumanResponseEvent(response="yes"))
    await handler.result()


async def take_all(url: str) -> None:
    IMAGES.mkdir(exist_ok=True)
    async with async_playwright() as playwright:
        program = shutil.which("chromium") or os.environ.get("CHROMIUM", "chromium")
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        await take(browser, f"{url}/#/", "runs")
        for view in VIEWS:
            await take(browser, f"{url}/#/runs/haiku-3?tab={view}", view)
        await take(browser, f"{url}/#/runs/haiku-3", "phone", width=390, dark=True)
        await take(browser, f"{url}/#/start/Haiku", "start")
        await browser.close()


async def take(
    browser: Browser, url: str, name: str, *, width: int = 1100, dark: bool = False
) -> None:
    context = await browser.new_context(
        viewport={"width": width, "height": 700}, color_scheme="dark" if dark else "light"
    )
    page = await context.new_page()
    await page.goto(url)
    ready = "Start Haiku" if name == "start" else "haiku-3"
    await page.get_by_text(ready).first.wait_for()
    if name == "timeline":
        await page.get_by_role("button", name="outline").click()
    if name == "records":
        await page.get_by_role("listbox", name="Records").get_by_role("option").nth(3).click()
    elif name not in {"runs", "start"}:
        await page.get_by_text("live").first.wait_for()
    await page.wait_for_timeout(500)
    await page.screenshot(path=IMAGES / f"console-{name}.png")
    await context.close()


if __name__ == "__main__":
    asyncio.run(main())
