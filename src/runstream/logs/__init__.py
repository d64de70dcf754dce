"""The backends. `open_log(url)` finds the one for a URL and imports it only then."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final, Protocol, cast
from urllib.parse import parse_qsl

from ..errors import InvalidInput, InvalidURL
from ..log import Log
from ..settings import read_settings
from ..time_span import parse_time_span

# Scheme of the URL -> module. Strings, so that a backend's driver is imported only when it is used.
_MODULES = {
    "memory": "memory",
    "sqlite": "sqlite",
    "redis": "redis",
    "rediss": "redis",
    "nats": "nats",
    "postgresql": "postgres",
    "postgres": "postgres",
    "http": "http",
    "https": "http",
}
_SERVERS: Final = frozenset({"http", "https"})
# Driver of a log for more machines than one -> the extra of this package that brings it.
_EXTRAS = {"redis": "redis", "nats": "nats", "psycopg": "postgres", "aiohttp": "http"}

# Logs that this process stores by itself.
EMBEDDED = frozenset({"memory", "sqlite"})
# Logs that work in every event loop and thread: all users of one URL in a process share one, and so its
# connections.
SHARED = EMBEDDED | {"redis", "rediss", "nats", "postgresql", "postgres"}


class _Backend(Protocol):
    def open_url(self, address: str, options: dict[str, str]) -> Log:
        """`address` is the URL up to its question mark. May block."""
        ...


def is_embedded(url: str) -> bool:
    """Whether this process itself stores the log, at the speed of its disk or memory."""
    return url.partition(":")[0] in EMBEDDED


def is_shared(url: str) -> bool:
    """Whether all users of that URL in a process are to share one log."""
    return url.partition(":")[0] in SHARED


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


class _Server(Protocol):
    def open_url(self, address: str, options: dict[str, str], *, token: str | None) -> Log:
        """As a backend's, with what the server knows the caller by."""
        ...


def open_log(url: str, *, token: str | None = None) -> Log:
    """Open the log of a URL: `sqlite:PATH`, `memory:`, `redis://HOST/DB`, `nats://HOST`,
    `postgresql://HOST/DATABASE`, `https://HOST` …; blocks until it can be used. `with_secrets_hidden`
    shows a URL. A `token` is for a server (`http:`, `https:`); it is never part of the URL.

    Raises:
        InvalidInput: a token for a log that takes none.
        InvalidURL: unknown scheme or option.
        LogUnavailable, NotALog: it cannot be opened.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in _MODULES:
        raise InvalidURL(
            f"no log for {with_secrets_hidden(url)!r}: a URL begins with one of "
            f"{', '.join(f'{known}:' for known in _MODULES)}"
        )
    address, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    try:
        module = importlib.import_module(f"{__name__}.{_MODULES[scheme]}")
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        raise InvalidURL(
            f"{scheme}: needs a driver that is not installed: pip install 'runstream[{extra}]'"
        ) from error
    if token is None:
        return cast(_Backend, module).open_url(address, options)
    if scheme not in _SERVERS:
        raise InvalidInput(f"a token is for a server (http:, https:), not for {scheme}:")
    return cast(_Server, module).open_url(address, options, token=token)


def with_secrets_hidden(url: str) -> str:
    """The URL as people may see it, in errors and in terminals: without user, password and options."""
    address, _, _ = url.partition("?")
    scheme, slashes, rest = address.partition("://")
    if not slashes:
        return address
    authority, slash, path = rest.partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


def retention_option(options: dict[str, str]) -> float | None:
    """`?retention=90s`, `30m`, `12h`, `7d` or `off`, in seconds (None: off); else what the settings say.

    Raises InvalidURL for any other text.
    """
    text = options.get("retention")
    if text is None:
        return read_settings().retention_s
    if text == "off":
        return None
    try:
        return parse_time_span(text)
    except InvalidInput:
        raise InvalidURL(
            f"retention is a time like 90s, 30m, 12h or 7d, or off, not {text!r}"
        ) from None


def requires_durable(options: dict[str, str]) -> bool:
    """Whether `?require=durable` is given: then opening raises InvalidURL, with what to set, unless the
    engine's settings make every append survive a power cut. Raises InvalidURL for any other text.
    """
    text = options.get("require")
    if text not in {None, "durable"}:
        raise InvalidURL(f"require is durable, or not given, not {text!r}")
    return text is not None


def refuse_unknown(options: dict[str, str], known: tuple[str, ...]) -> None:
    """Raises InvalidURL for an option that a backend does not have."""
    for name in options:
        if name not in known:
            raise InvalidURL(
                f"unknown option {name!r} in the URL; known are: {', '.join(known) or 'none'}"
            )
