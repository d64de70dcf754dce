"""A small HTTP server that answers as the Hugging Face hub does, for the repositories of a test."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final
from urllib.parse import urlsplit

COMMIT: Final = "c0ffee" + "0" * 34
# The hub's client takes in a file in blocks of this size.
BLOCK_BYTES: Final = 10 * 1024 * 1024
# At their pace it takes less time to send them all than closing waits for what can't be stopped.
ENDLESS_BLOCKS: Final = 150
BLOCK_S: Final = 0.1
HANG_GUARD_S: Final = 60.0


@dataclass
class Hub:
    """The repository "org/tiny"; "org/gated" is there, too, but not for everyone."""

    files: Mapping[str, bytes]
    # The file of which the first answer breaks off in the middle.
    breaks_off: str | None = None
    # The file that is sent once `POST /go` has come; and the one that then never ends.
    held: str | None = None
    endless: str | None = None
    url: str = ""
    # The files that were sent, with the range that was asked for.
    sent: list[tuple[str, str | None]] = field(default_factory=list[tuple[str, str | None]])
    asked: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    blocks: int = 0


class _Server(ThreadingHTTPServer):
    def __init__(self, hub: Hub) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def hub(self) -> Hub:
        assert isinstance(self.server, _Server)
        return self.server.hub

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        pass

    def do_POST(self) -> None:
        """`/go`: answers when the held file is asked for, and lets it go."""
        asked = self.hub.asked.wait(HANG_GUARD_S)
        self.hub.go.set()
        self._answer(200 if asked else 504, b"", {})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        match urlsplit(self.path).path.strip("/").split("/", 5):
            case ["api", "models", "org", "gated", *_]:
                self._refuse(403, "GatedRepo", "Ask for access.")
            case ["api", "models", "org", "tiny", "revision", "main"]:
                self._answer_json({"id": "org/tiny", "sha": COMMIT, "siblings": []})
            case ["api", "models", "org", "tiny", "tree", _]:
                self._answer_json([self._entry(name) for name in self.hub.files])
            case ["org", "tiny", "resolve", _, *name] if "/".join(name) in self.hub.files:
                self._answer_file("/".join(name))
            case ["store", name]:
                self._send_file(name, {})
            case _:
                self._refuse(404, "RepoNotFound", "No such repository.")

    def _entry(self, name: str) -> dict[str, object]:
        body = self.hub.files[name]
        return {"type": "file", "path": name, "size": len(body), "oid": _etag(body)}

    def _answer_json(self, document: object) -> None:
        self._answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _answer_file(self, name: str) -> None:
        body = self.hub.files[name]
        headers = {"ETag": f'"{_etag(body)}"', "X-Repo-Commit": COMMIT}
        if name.endswith(".safetensors"):  # large files are in a store of another host
            store = self.hub.url.replace("127.0.0.1", "localhost")
            headers |= {"X-Linked-ETag": headers.pop("ETag"), "X-Linked-Size": str(len(body))}
            self._answer(302, b"", headers | {"Location": f"{store}/store/{name}"})
        elif self.command == "HEAD":
            self._answer(200, body, headers)
        else:
            self._send_file(name, headers)

    def _send_file(self, name: str, headers: dict[str, str]) -> None:
        hub = self.hub
        body = hub.files[name]
        headers["Accept-Ranges"] = "bytes"
        asked = self.headers.get("Range")
        hub.sent.append((name, asked))
        if name == hub.endless:
            self._send_endless(headers)
            return
        if name == hub.held:
            hub.asked.set()
            hub.go.wait(HANG_GUARD_S)
        if name == hub.breaks_off and asked is None:
            self._begin(200, len(body), headers)
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        if asked is None:
            self._answer(200, body, headers)
            return
        begin = int(asked.removeprefix("bytes=").split("-")[0])
        headers["Content-Range"] = f"bytes {begin}-{len(body) - 1}/{len(body)}"
        self._answer(206, body[begin:], headers)

    def _send_endless(self, headers: Mapping[str, str]) -> None:
        hub = self.hub
        self._begin(200, BLOCK_BYTES * ENDLESS_BLOCKS, headers)
        hub.asked.set()
        hub.go.wait(HANG_GUARD_S)
        try:
            for _ in range(ENDLESS_BLOCKS):
                self.wfile.write(bytes(BLOCK_BYTES))
                hub.blocks += 1
                threading.Event().wait(BLOCK_S)
        except OSError:
            self.close_connection = True  # the client has left

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(status, b"", {"X-Error-Code": code, "X-Error-Message": message})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self._begin(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: int, length: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()


@contextmanager
def serving(hub: Hub) -> Generator[Hub]:
    """Answer at `hub.url` while the block lasts."""
    with _Server(hub) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield hub
        finally:
            hub.asked.set()
            hub.go.set()
            server.shutdown()
            thread.join()


def _etag(body: bytes) -> str:
    return hashlib.sha1(body, usedforsecurity=False).hexdigest()
