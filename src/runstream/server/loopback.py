"""A server without auth on the loopback interface: only this machine's programs reach it, and web pages.

A browser lets any page send requests to 127.0.0.1, and a page whose name is made to point there
(DNS rebinding) may even read the answers. Both show in the headers, which pages cannot forge.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from starlette.types import Scope

from ..errors import Forbidden
from .access import EVERYONE, Principal
from .run_tokens import RunTokens

# Names that callers give this server: one or two honest ones, and no memory for the others.
NAMES_KEPT_MAX: Final = 64


class LoopbackAccess:
    """Everyone on this machine may do everything; web pages only from here, or from listed origins."""

    def __init__(self, origins: tuple[str, ...] = ()) -> None:
        self._origins = frozenset(origin.encode("latin-1") for origin in origins)
        self._tokens = RunTokens.with_new_secret()
        self._names_loopback = lru_cache(NAMES_KEPT_MAX)(_names_loopback)

    def identify(self, scope: Scope) -> Principal:
        for name, value in scope["headers"]:
            if name == b"host":
                if not self._names_loopback(b"//" + value):
                    raise Forbidden(
                        "this server asks for no token, so it answers to localhost and 127.0.0.1 alone; "
                        "behind another name, run it with --keys"
                    )
            elif (
                name == b"origin" and value not in self._origins and not self._names_loopback(value)
            ):
                raise Forbidden(
                    "pages of that origin may not use this server; --cors-origin lists those that may"
                )
        return EVERYONE

    def mint(self, principal: Principal, run_id: str, ttl_s: float | None) -> tuple[str, float]:
        return self._tokens.mint(run_id, ttl_s, by=principal.name)

    def hide(self, run_id: str) -> str:
        return self._tokens.hide(run_id)

    def reveal(self, hidden: str) -> str:
        return self._tokens.reveal(hidden)

    def describe(self) -> str:
        return "off: this machine only"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server on `host`; a name other than localhost may be anyone's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _names_loopback(address: bytes) -> bool:
    try:
        return is_loopback(urlsplit(address.decode("latin-1")).hostname or "")
    except ValueError:
        return False
