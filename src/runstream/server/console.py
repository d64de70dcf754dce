"""The console: a built page that ships inside the package, so that nobody needs Node to look at a run.

It holds no data: what it shows it asks of the API, with the token of the person in front of it.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from .access import Principal
from .answers import Refused
from .site import Site

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
}
# Everything comes from here, nothing runs inline, and nobody frames it.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def get_page(_site: Site, _principal: Principal, _request: Request) -> Response:
    """The page itself: asked for anew each time, because it names the present assets."""
    return _answer("index.html", "no-cache")


async def get_asset(_site: Site, _principal: Principal, request: Request) -> Response:
    """A script or style sheet; its name holds a hash of its content, so it may be kept."""
    name = f"assets/{request.path_params['asset']}"
    if name not in _shipped():
        raise Refused("not_found", "the console has no such file")
    return _answer(name, "public, max-age=31536000, immutable")


def _answer(name: str, cache_control: str) -> Response:
    return Response(
        _shipped()[name],
        media_type=_TYPES[name.rpartition(".")[2]],
        headers={
            "cache-control": cache_control,
            "content-security-policy": _POLICY,
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        },
    )


@cache
def _shipped() -> dict[str, bytes]:
    """The files by name: a few hundred KiB, read once."""
    folder = files(__package__ or "") / "console_files"
    found = {"index.html": (folder / "index.html").read_bytes()}
    for file in (folder / "assets").iterdir():
        found[f"assets/{file.name}"] = file.read_bytes()
    return found
