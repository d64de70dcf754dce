"""A server behind nginx, configured as docs/deployment.md says: nothing is held back, lost or doubled."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import signal
import ssl
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import IO

import pytest

from programs import wait_until
from runstream import connect, drain, process, publish, start_run
from runstream.logs.http import HttpLog
from runstream.record import make_draft
from runstream.server.keys import create_key
from server_process import Reply, ServerProcess, running_server
from services.engine import find_program
from services.nginx import Nginx, running_nginx

# Making a certificate takes its time, and some tests are plain code.
pytestmark = pytest.mark.allow_blocking


class Site:
    """A server that asks for a key, and nginx in front of it."""

    def __init__(self, server: ServerProcess, nginx: Nginx, key: str) -> None:
        self.server = server
        self.nginx = nginx
        self.key = key
        # What our client is given.
        self.url = f"{nginx.url}?ca={nginx.cert}"

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        trusting = ssl.create_default_context(cafile=str(self.nginx.cert))
        line = http.client.HTTPSConnection(
            "127.0.0.1", self.nginx.port, timeout=30, context=trusting
        )
        sent = {"authorization": f"Bearer {self.key}", "content-type": "application/json"}
        raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            line.request(method, path, raw, {**sent, **headers})
            answer = line.getresponse()
            return Reply(answer.status, dict(answer.getheaders()), answer.read())
        finally:
            line.close()

    def curl(self, *words: str) -> list[str]:
        """`curl` as somebody at a terminal calls it; the address comes last in `words`."""
        trusted = ["--silent", "--show-error", "--cacert", str(self.nginx.cert), "--max-time", "60"]
        bearer = ["--header", f"Authorization: Bearer {self.key}"]
        return [find_program("curl"), *trusted, *bearer, *words]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Site]:
    key, _ = create_key(tmp_path / "keys", ("admin",))
    monkeypatch.setenv("RUNSTREAM_TOKEN", key)
    options = ("--keys", str(tmp_path / "keys"))
    with (
        running_server(tmp_path, f"sqlite:{tmp_path}/events.db", *options) as server,
        running_nginx(tmp_path / "nginx", server.port) as nginx,
    ):
        server.token = key
        yield Site(server, nginx, key)
        process.close_publishers()


def note(site: Site, number: int) -> None:
    body = {"events": [{"kind": "note", "data": {"n": number}}]}
    assert site.server.call("POST", "/v1/runs/r/events", body).status == 200


def read_until(output: IO[str], text: str) -> list[str]:
    lines: list[str] = []
    for line in output:
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"{text!r} did not come: {lines[-20:]}")


@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize("accept", ["text/event-stream", "application/x-ndjson"])
def test_each_record_arrives_before_the_next_one_is_there(
    site: Site, version: str, accept: str
) -> None:
    site.server.call("PUT", "/v1/runs/r", {"workflow": "w"})
    url = f"{site.nginx.url}/v1/runs/r/events"
    # (A browser asks for gzip each time.)
    asked = ["--header", f"Accept: {accept}", "--header", "Accept-Encoding: gzip"]
    command = site.curl("--no-buffer", version, *asked, "--dump-header", "-", url)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        try:
            head = "".join(read_until(curl.stdout, "stream.cursor"))
            assert head.startswith("HTTP/2 200" if version == "--http2" else "HTTP/1.1 200")
            for number in range(20):
                note(site, number)
                read_until(curl.stdout, f'"data":{{"n": {number}}}')
            end = {"events": [{"kind": "run.completed"}], "final": True}
            site.server.call("POST", "/v1/runs/r/events", end)
            read_until(curl.stdout, "stream.end")
            assert curl.wait(60) == 0
        finally:
            curl.kill()


async def test_publishing_and_following_survive_when_either_of_the_two_is_killed(
    site: Site,
) -> None:
    seen: list[int] = []
    begun = asyncio.Event()

    async def follow(run_id: str) -> None:
        async with connect(site.url) as streams:
            async for record in streams.subscribe(run_id, wait=True):
                begun.set()
                seen.extend([record.data["n"]] if record.kind == "note" else [])

    async with start_run("w", run_id="r", url=site.url):
        following = asyncio.create_task(follow("r"))
        await begun.wait()
        for number in range(60):
            publish({"n": number}, kind="note")
            if number % 20 == 5:
                victim = (site.nginx, site.server, site.nginx)[number // 20]
                assert await drain()
                await asyncio.to_thread(victim.restart)
        assert await drain()
    await asyncio.wait_for(following, 60)
    assert seen == list(range(60))


async def test_the_largest_batch_passes_and_a_larger_one_is_split(site: Site) -> None:
    log = HttpLog(site.nginx.url, token=site.key, ca=str(site.nginx.cert))
    await log.open("r", producer=None, workflow="w")
    # More than nginx lets through in one request, even before it is packed.
    drafts = [make_draft("r", "note", {"n": n, "x": "x" * 500_000}) for n in range(20)]
    stored = await log.append("r", drafts)
    assert (stored.first_seq, stored.last_seq) == (1, 20)
    await log.aclose()
    body = json.dumps({"events": [{"kind": "note", "data": "x" * 4000}] * 1000}).encode()
    assert 4_000_000 < len(body) < 4 * 1024 * 1024
    assert (await asyncio.to_thread(site.call, "POST", "/v1/runs/r/events", body)).status == 200
    too_large = await asyncio.to_thread(
        site.call, "POST", "/v1/runs/r/events", body + b" " * 400_000
    )
    assert too_large.status == 413


def test_refusals_pages_and_packed_answers_come_through_as_they_are(site: Site) -> None:
    site.call("PUT", "/v1/runs/r", {"workflow": "w"})
    site.call("POST", "/v1/runs/r/events", {"events": [{"kind": "note", "data": "x"}] * 100})
    path, page = "/v1/runs/r/events", {"accept": "application/json"}
    plain = site.call("GET", path, **page)
    packed = site.call("GET", path, **{**page, "accept-encoding": "gzip"})
    assert len(plain.json["records"]) == 100
    assert gzip.decompress(packed.body) == plain.body
    unknown = site.call("GET", path, **{**page, "authorization": "Bearer rsk_x_y"})
    assert (unknown.status, unknown.json["code"]) == (401, "unauthorized")
    assert unknown.headers["www-authenticate"] == "Bearer"
    gone = site.call("GET", "/v1/runs/nobody")
    assert (gone.status, gone.json["code"]) == (404, "run_not_found")


def test_who_follows_hears_why_the_server_goes_and_nginx_then_says_it_is_away(site: Site) -> None:
    site.server.call("PUT", "/v1/runs/r", {"workflow": "w"})
    command = site.curl("--no-buffer", "--http2", f"{site.nginx.url}/v1/runs/r/events")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        try:
            read_until(curl.stdout, "stream.cursor")
            site.server.stop(signal.SIGTERM)
            told = "".join(read_until(curl.stdout, '"status":503'))
            assert "retry:" in told
            assert curl.wait(60) == 0
        finally:
            curl.kill()
    assert site.call("GET", "/healthz").status == 502
    site.server.start()
    wait_until(lambda: site.call("GET", "/healthz").status == 200, "nginx finds it again")


def test_a_follower_that_leaves_is_noticed_through_nginx(site: Site) -> None:
    site.server.call("PUT", "/v1/runs/r", {"workflow": "w"})

    def subscribers() -> float:
        text = site.server.call("GET", "/metrics").body.decode()
        (line,) = [one for one in text.splitlines() if one.startswith("runstream_subscribers ")]
        return float(line.split()[1])

    command = site.curl("--no-buffer", f"{site.nginx.url}/v1/runs/r/events")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        read_until(curl.stdout, "stream.cursor")
        assert subscribers() == 1
        curl.kill()
    wait_until(lambda: subscribers() == 0, "the server lets go of it")


async def test_under_a_path_its_address_is_all_that_changes(site: Site, tmp_path: Path) -> None:
    with running_nginx(tmp_path / "under", site.server.port, "/streams/") as nginx:
        url = f"{nginx.url}?ca={nginx.cert}"
        assert nginx.url.endswith("/streams")
        async with start_run("w", run_id="r", url=url):
            publish({"n": 1}, kind="note")
        async with connect(url) as streams:
            kinds = [record.kind async for record in streams.subscribe("r")]
        assert kinds == ["run.started", "note", "run.completed"]
        process.close_publishers()
