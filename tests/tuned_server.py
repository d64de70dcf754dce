"""A server process with limits that a test can reach: `ServerOptions` which the command line does not set.

Run as a program it is that server.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.types import Scope

from runstream.server.access import Everyone, OpenAccess, Principal
from runstream.server.app import create_app
from runstream.server.serving import Listening, serve
from runstream.server.site import ServerOptions
from server_process import ServerProcess


@contextmanager
def tuned_server(folder: Path, log_url: str, **options: Any) -> Generator[ServerProcess]:
    """A server with these options, for the time of the block; with `token_s` callers are known so long."""
    folder.mkdir(exist_ok=True)
    server = ServerProcess(folder, log_url)
    server.command = [sys.executable, __file__, log_url, str(server.port), json.dumps(options)]
    try:
        server.start()
        yield server
    finally:
        server.kill()


class Expiring(Everyone):
    """Whoever asks is known for a while."""

    def __init__(self, token_s: float) -> None:
        self.expires = time.time() + token_s


class ExpiringAccess(OpenAccess):
    """Everyone may do everything, for so many seconds from the start of a request."""

    def __init__(self, token_s: float) -> None:
        self._token_s = token_s

    def identify(self, scope: Scope) -> Principal:
        return Expiring(self._token_s)


def main(log_url: str, port: str, options: str) -> None:
    values = json.loads(options)
    token_s = values.pop("token_s", None)
    app = create_app(
        log_url,
        options=ServerOptions(**values),
        access=None if token_s is None else ExpiringAccess(token_s),
    )
    asyncio.run(serve(app, Listening(port=int(port)), lambda: None))


if __name__ == "__main__":
    main(*sys.argv[1:])
