"""Pages of another origin than the server's: what a person's own web site is."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from clients.npm import ROOT, run

CLIENT = ROOT / "clients" / "typescript"
_TYPES = {"js": "text/javascript", "html": "text/html; charset=utf-8"}


def bundled(source: str, bundle: Path, *options: str) -> str:
    """A file of the client with all that it imports, as one script."""
    run(CLIENT, "npx", "esbuild", source, "--bundle", f"--outfile={bundle}", *options)
    return bundle.read_text("utf-8")


@contextmanager
def web_site(pages: Mapping[str, str]) -> Generator[str]:
    """A web server with these files; its origin."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = urlsplit(self.path).path
            found = pages.get(path)
            self.send_response(200 if found is not None else 404)
            self.send_header("content-type", _TYPES.get(path.rpartition(".")[2], _TYPES["html"]))
            self.end_headers()
            self.wfile.write((found or "").encode())

        def log_request(self, code: object = "-", size: object = "-") -> None:
            """(It tells the terminal nothing.)"""

    site = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=site.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{site.server_address[1]}"
    finally:
        site.shutdown()
        thread.join()
        site.server_close()
