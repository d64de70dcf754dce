"""What the URL of a NATS log says of its servers."""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import unquote, urlsplit

from ..errors import InvalidURL


def parse_servers(address: str) -> tuple[list[str], str, str, dict[str, Any]]:
    """Of `nats://[USER:PASSWORD@]HOST[:PORT][,HOST…][/NAME]`: the servers, how they may be shown, the
    name (or ""), and what the client needs to know. Raises InvalidURL.
    """
    scheme, _, rest = address.partition("://")
    authority, _, name = rest.partition("/")
    secret, at, hosts = authority.rpartition("@")
    if not hosts:
        raise InvalidURL("the URL names no server: nats://HOST[:PORT]")
    user, _, password = secret.partition(":")
    options: dict[str, Any] = {}
    if at:
        user, password = unquote(user), unquote(password)
        options = {"user": user, "password": password} if password else {"token": user}
    for host in hosts.split(","):
        _check_host(host)
    if scheme == "tls":
        options["tls"] = ssl.create_default_context()
    return [f"nats://{host}" for host in hosts.split(",")], hosts, name, options


def _check_host(host: str) -> None:
    try:
        parts = urlsplit(f"//{host}")
        ok = bool(parts.hostname) and parts.port != 0 and not parts.query
    except ValueError:
        ok = False
    if not ok:
        raise InvalidURL(f"not a server of a NATS URL (HOST or HOST:PORT): {host!r}")
