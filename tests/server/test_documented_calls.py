"""Each `curl` of the pages on the server works as it is printed there."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runstream import process, publish, start_run
from server_process import ServerProcess, running_server
from services.engine import find_program

DOCS = Path(__file__).parents[2] / "docs"
HAIKU = Path(__file__).parents[2] / "examples" / "haiku.py"
# A guard against hanging.
CALL_S_MAX = 60


@pytest.fixture(autouse=True)
def closed_publishers() -> Iterator[None]:
    yield
    process.close_publishers()


def commands(page: str) -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("curl ")]


def run(server: ServerProcess, command: str, generation: str, until: str | None = None) -> str:
    """What it printed. The address and the cursor of the page become those of this test.

    A stream that goes on is left once `until` has come.
    """
    command = command.replace("localhost:4747", f"localhost:{server.port}")
    command = re.sub(r"183c0c01edbd", generation, command)
    words = shlex.split(command)
    words[0] = find_program("curl")
    words += ["--silent", "--show-error", "--max-time", str(CALL_S_MAX)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        printed = ""
        for line in curl.stdout:
            printed += line
            if until is not None and until in line:
                curl.kill()
                break
    assert curl.returncode == (0 if until is None else -signal.SIGKILL), (command, printed)
    assert '"status":4' not in printed, (command, printed)
    return printed


@pytest.mark.allow_blocking
def test_the_calls_of_the_pages_do_what_they_say(tmp_path: Path, sqlite_url: str) -> None:
    with running_server(tmp_path, sqlite_url, str(HAIKU)) as server:
        with start_run("nightly", run_id="report-1", url=server.url):
            publish({"text": "word "}, kind="token")
        generation = server.call("GET", "/v1/runs/report-1").json["generation"]
        assert [len(commands(page)) for page in ("server.md", "sse.md")] == [4, 4]
        open_it, send, follow, start = commands("server.md")
        opened, sent = (run(server, command, generation) for command in (open_it, send))
        followed = run(server, follow, generation, until='"Hello"')
        started = run(server, start, generation)
        assert '"created":true' in opened
        assert '"last_seq":1' in sent
        assert '"data":{"text": "Hello"}' in followed
        assert '"workflow":"Haiku"' in started
        stream, lines, page, resumed = (
            run(server, command, generation) for command in commands("sse.md")
        )
        assert stream.startswith(f"retry: 1000\nid: {generation}.0\nevent: stream.cursor\n")
        assert stream.endswith('event: stream.end\ndata: {"reason":"ended"}\n\n')
        assert len(lines.splitlines()) == 5
        assert page.count('"seq":') == 3
        assert f"id: {generation}.3" in resumed
        assert f"id: {generation}.1\n" not in resumed
