"""Which web pages may call the server from a browser (CORS): a list of origins, empty by default."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from ..errors import InvalidInput

# How long (seconds) a browser remembers what is allowed; they cap it at 10 minutes to 2 hours.
MAX_AGE_S: Final = 600


def check_origins(origins: tuple[str, ...]) -> tuple[str, ...]:
    """The origins, if each is one.

    Raises InvalidInput: not a scheme, a host and maybe a port; a wildcard above all.
    """
    for origin in origins:
        parts = urlsplit(origin)
        if (
            parts.scheme not in {"http", "https"}
            or not parts.hostname
            or "*" in origin
            or origin != f"{parts.scheme}://{parts.netloc.lower()}"
        ):
            raise InvalidInput(f"an origin is like https://app.example.com, not {origin!r}")
    return origins


def with_cors(app: ASGIApp, origins: tuple[str, ...]) -> ASGIApp:
    """The app, for pages of these origins too. Requests that come from no page pass untouched.

    No credentials are allowed (that word means cookies here): tokens travel in a header, or as a run
    token in the address.

    Raises InvalidInput: see `check_origins`.
    """
    if not check_origins(origins):
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "HEAD", "POST", "PUT", "DELETE"),
        allow_headers=(
            "Accept",
            "Authorization",
            "Cache-Control",
            "Content-Type",
            "Last-Event-ID",
            "traceparent",
        ),
        expose_headers=("Location", "Retry-After", "WWW-Authenticate"),
        max_age=MAX_AGE_S,
    )
