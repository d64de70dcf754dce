"""`nginx` for tests, with the configuration that docs/deployment.md shows."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from certificate import make_certificate

from .engine import Engine, answers, find_program, free_port

_PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
# What surrounds a site on every machine; here in a folder of its own, and in the foreground.
_AROUND = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log stderr warn; {user}
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
{site}
}}
"""


class Nginx(Engine):
    """An nginx in front of the server at `port_behind`. `url` is where it listens, `cert` what it shows.

    With `path` (such as `/streams/`) the server is there under that path.
    """

    def __init__(self, folder: Path, port_behind: int, path: str = "/") -> None:
        self.port = free_port()
        self.cert, key = make_certificate(folder)
        self.url = f"https://127.0.0.1:{self.port}{path.rstrip('/')}"
        changes = {
            "127.0.0.1:4747": f"127.0.0.1:{port_behind}",
            "listen 443": f"listen 127.0.0.1:{self.port}",
            "/etc/ssl/streams.pem": str(self.cert),
            "/etc/ssl/streams.key": str(key),
        }
        if path != "/":
            changes["location / "] = f"location {path} "
            changes["proxy_pass http://runstream;"] = "proxy_pass http://runstream/;"
        site = _documented()
        for old, new in changes.items():
            assert old in site, f"{_PAGE.name} no longer says {old!r}"
            site = site.replace(old, new)
        # Its workers would else belong to somebody who may not write into our folder.
        user = "user root root;" if os.getuid() == 0 else ""
        config = folder / "nginx.conf"
        config.write_text(_AROUND.format(folder=folder, user=user, site=site))
        program = find_program("nginx", "/usr/sbin", "/usr/local/sbin")
        command = [program, "-p", str(folder), "-e", "stderr", "-c", str(config)]
        super().__init__(command, folder, lambda: answers(self.port))


@contextmanager
def running_nginx(folder: Path, port_behind: int, path: str = "/") -> Generator[Nginx]:
    """An nginx for the time of the block, with its files in `folder`, which is made."""
    folder.mkdir()
    nginx = Nginx(folder, port_behind, path)
    try:
        nginx.start()
        yield nginx
    finally:
        nginx.kill()


def _documented() -> str:
    found = re.search(r"```nginx\n(.*?)```", _PAGE.read_text(), re.DOTALL)
    assert found is not None, f"{_PAGE.name} has no nginx configuration any more"
    return found[1]
