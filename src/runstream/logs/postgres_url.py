"""The URL of a PostgreSQL log: libpq's own, with a few options of ours that are taken out first."""

from __future__ import annotations

import re
from typing import Final, Literal

import msgspec
from psycopg import ProgrammingError, pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from ..errors import InvalidURL
from . import refuse_unknown, requires_durable, retention_option, with_secrets_hidden

Durability = Literal["power", "process"]

# Connections that look for records at the same time; with the writer, the listener, the one that wakes
# others and (for moments) the one that removes old runs a process holds at most four more.
READERS: Final = 4
READERS_MAX: Final = 100
# A server that is not there is an error at opening, not a hang.
CONNECT_TIMEOUT_S: Final = 10
SCHEMA: Final = "runstream"
# Room for what we put before it in the name of its channel; PostgreSQL's names have 63 bytes.
_SCHEMA_NAME: Final = re.compile(r"[a-z_][a-z0-9_]{0,47}", re.ASCII)
_DEFAULTS: Final[dict[str, str | int]] = {
    "application_name": "runstream",
    "connect_timeout": CONNECT_TIMEOUT_S,
    # A peer that vanished without a word (a cable, a virtual machine) is noticed in a minute.
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
}
_OURS: Final = ("durability", "readers", "require", "retention", "schema")


class Address(msgspec.Struct, frozen=True):
    """Where a log is and how to use it. `conninfo` may hold a password: only `shown` is for people."""

    conninfo: str
    shown: str
    schema: str
    durability: Durability
    readers: int
    require_durable: bool
    retention_s: float | None

    def __repr__(self) -> str:
        return f"<Address {self.shown} schema={self.schema}>"

    @property
    def channel(self) -> str:
        """Where the processes on this log tell one another what is new."""
        return f"runstream:{self.schema}"


def parse(address: str, options: dict[str, str]) -> Address:
    """Raises InvalidURL, without what may be secret in the URL."""
    shown = with_secrets_hidden(address)
    libpq = sorted(option.keyword.decode() for option in pq.Conninfo.get_defaults())
    refuse_unknown(options, (*_OURS, *libpq))
    conninfo = _conninfo(address, {k: v for k, v in options.items() if k not in _OURS})
    if conninfo is None:
        raise InvalidURL(
            f"not a PostgreSQL URL: {shown!r}; it is postgresql://USER:PASSWORD@HOST:5432/DATABASE, and "
            "special characters in user and password are written as %XX"
        )
    durability = options.get("durability", "power")
    if durability not in {"power", "process"}:
        raise InvalidURL(f"durability is power or process, not {durability!r}")
    required = requires_durable(options)
    if required and durability == "process":
        raise InvalidURL("require=durable and durability=process exclude one another")
    schema = options.get("schema", SCHEMA)
    if not _SCHEMA_NAME.fullmatch(schema):
        raise InvalidURL(
            f"schema is a name of up to 48 small letters, digits and _, not {schema!r}"
        )
    return Address(
        conninfo=conninfo,
        shown=shown,
        schema=schema,
        durability="power" if durability == "power" else "process",
        readers=_readers(options.get("readers")),
        require_durable=required,
        retention_s=retention_option(options),
    )


def _conninfo(address: str, options: dict[str, str]) -> str | None:
    """What the driver connects with. None for an address that it cannot read: its own error would show
    the part that it stumbled over, perhaps the password.
    """
    try:
        return make_conninfo("", **{**_DEFAULTS, **conninfo_to_dict(address), **options})
    except ProgrammingError:
        return None


def _readers(text: str | None) -> int:
    if text is None:
        return READERS
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= READERS_MAX):
        raise InvalidURL(f"readers is a number from 1 to {READERS_MAX}, not {text!r}")
    return int(text)
