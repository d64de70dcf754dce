"""The backends. `open_log(url)` finds the one for a URL and imports it only then."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Protocol, cast
from urllib.parse import parse_qsl

from ..errors import InvalidURL
from ..log import Log

# Scheme of the URL -> module. Strings, so that a backend's driver is imported only when it is used.
_MODULES = {
    "memory": "memory",
    "sqlite": "sqlite",
}


# Logs that this process stores by itself: all users of one URL in a process share one.
EMBEDDED = frozenset({"memory", "sqlite"})


class _Backend(Protocol):
    def open_url(self, rest: str, options: dict[str, str]) -> Log: ...


def is_embedded(url: str) -> bool:
    """Whether this process itself stores the log, at the speed of its disk or memory."""
    return url.partition(":")[0] in EMBEDDED


def canonical_url(url: str) -> str:
    """The one form of a URL: a relative SQLite path is taken from the current folder, now."""
    scheme, _, rest = url.partition(":")
    if scheme != "sqlite":
        return url
    address, mark, query = rest.partition("?")
    path = address.removeprefix("//")
    if not path:
        return url
    return f"sqlite:{Path(path).expanduser().absolute()}{mark}{query}"


def open_log(url: str) -> Log:
    """Open the log of a URL: `sqlite:PATH`, `sqlite:///ABSOLUTE/PATH`, `memory:` …

    Raises:
        InvalidURL: unknown scheme or option.
        LogUnavailable, NotALog: it cannot be opened.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or scheme not in _MODULES:
        raise InvalidURL(
            f"no log for {url!r}: a URL begins with one of "
            f"{', '.join(f'{known}:' for known in _MODULES)}"
        )
    address, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    backend = cast(_Backend, importlib.import_module(f"{__name__}.{_MODULES[scheme]}"))
    return backend.open_url(address, options)


def refuse_unknown(options: dict[str, str], known: tuple[str, ...]) -> None:
    """Raises InvalidURL for an option that a backend does not have."""
    for name in options:
        if name not in known:
            raise InvalidURL(
                f"unknown option {name!r} in the URL; known are: {', '.join(known) or 'none'}"
            )
