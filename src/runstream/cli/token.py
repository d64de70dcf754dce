"""`runstream token`: the keys of a server, and tokens for single runs."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import click
import msgspec
from rich.table import Table
from rich.text import Text

from ..api import V1, RunToken, TokenRequest
from ..errors import InvalidInput
from ..record import check_run_id
from ..settings import read_settings
from .ls import roughly
from .options import Commands, debug_option, in_seconds, server_option
from .server_call import call_server
from .terminal import harmless, make_console

EXAMPLES: Final = """\b
Examples:
  runstream token create-key --keys keys --scope runs:read --scope runs:write --name ci
  runstream serve --keys keys --host 0.0.0.0 …
  RUNSTREAM_TOKEN=rsk_… runstream ls --url http://HOST:4747

\b
  runstream token create-key --keys keys --scope runs:read --run 'team-a-*' --expires 90d
  runstream token list --keys keys [--json]
  runstream token revoke --keys keys ID
  runstream token mint RUN --ttl 10m --url http://HOST:4747      for a web page

\b
Scopes:
  runs:read    follow and list runs
  runs:write   publish, signal, cancel
  runs:start   start workflows
  metrics      read /metrics
  admin        all of these
"""

_SCOPES: Final = ("runs:read", "runs:write", "runs:start", "metrics", "admin")


_keys_option = click.option(
    "--keys",
    "keys_file",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The keys file that the server was started with (its --keys).",
)


@click.group(
    cls=Commands, epilog=EXAMPLES, short_help="Create keys and tokens for the users of a server."
)
def token() -> None:
    """Create keys for the users of a server, and short-lived tokens for web pages.

    A key is shown only once, when it is created: the file holds only its hash. A running server notices
    changes to the file within a second.
    """


@token.command("create-key")
@_keys_option
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice(_SCOPES),
    help="What the key allows. Repeatable.",
)
@click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="PATTERN",
    help="Only this run, or all runs whose id begins like this: 'team-a-*'. Repeatable.",
)
@click.option("--name", default="", metavar="TEXT", help="A name for the key, shown in the list.")
@click.option(
    "--expires",
    callback=in_seconds,
    metavar="TIME",
    help="When the key expires: in 12h, 90d … Default: never.",
)
@debug_option
def create_key(
    keys_file: Path,
    scopes: tuple[Any, ...],
    runs: tuple[str, ...],
    name: str,
    expires: float | None,
) -> None:
    """Create a key and print it. Only the key goes to standard output, ready for a secret store."""
    key, entry = _keys().create_key(
        keys_file,
        scopes,
        name=name,
        runs=runs or None,
        expires=None if expires is None else time.time() + expires,
    )
    click.echo(key)
    click.echo(
        f"Key {entry.id} is in {keys_file}, as a hash. This is the only time that the key is shown.\n"
        "Clients take it from RUNSTREAM_TOKEN, or send it as: Authorization: Bearer …",
        err=True,
    )


@token.command("list")
@_keys_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object per line, for programs."
)
@debug_option
def list_keys(keys_file: Path, as_json: bool) -> None:
    """List the keys by name and what they allow. The keys themselves are never shown."""
    keys = _keys().read_keys(keys_file)
    if as_json:
        for key in keys:
            shown: dict[str, object] = msgspec.to_builtins(key)
            del shown["sha256"]
            click.echo(msgspec.json.encode(shown).decode())
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("KEY", "NAME", "SCOPES", "RUNS", "CREATED", "EXPIRES"):
        table.add_column(column, overflow="fold")
    now = time.time()
    for key in keys:
        expired = key.expires is not None and key.expires <= now
        table.add_row(
            key.id,
            Text(harmless(key.name)),
            " ".join(key.scopes),
            "all" if key.runs is None else " ".join(key.runs),
            f"{roughly(round((now - key.created) * 1e6))} ago" if key.created else "",
            Text(_when(key.expires, now), style="red" if expired else ""),
        )
    make_console().print(table)


@token.command()
@_keys_option
@click.argument("key_id", metavar="ID")
@debug_option
def revoke(keys_file: Path, key_id: str) -> None:
    """Revoke a key, by its id in the list. Run tokens that it created end with it."""
    _keys().revoke_key(keys_file, key_id)
    click.echo(f"Key {key_id} is revoked; running servers notice within a second.", err=True)


@token.command()
@click.argument("run_id", metavar="RUN")
@click.option(
    "--ttl",
    callback=in_seconds,
    metavar="TIME",
    help="How long the token is valid: 90s, 10m … Default: 15m.",
)
@server_option
@debug_option
def mint(run_id: str, ttl: float | None, url: str | None) -> None:
    """Get a short-lived token that may only read one run, and print it.

    A browser can pass it in the address: ?access_token=… Your own key (RUNSTREAM_TOKEN) must allow you to
    read the run. The run need not exist yet.
    """
    url = url or read_settings().url
    body = msgspec.json.encode(TokenRequest(ttl_s=ttl))
    path = f"{V1}/runs/{check_run_id(run_id)}"
    minted = msgspec.json.decode(call_server(url, "POST", f"{path}/tokens", body), type=RunToken)
    click.echo(minted.token)
    shown = url.partition("?")[0].rstrip("/")
    click.echo(
        f"It reads run {run_id} until {minted.expires[:19]}Z:\n"
        f"  curl -N '{shown}{path}/events?access_token=…' -H 'Accept: text/event-stream'",
        err=True,
    )


def _when(moment: float | None, now: float) -> str:
    if moment is None:
        return "never"
    if moment <= now:
        return "expired"
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%MZ")


def _keys() -> ModuleType:
    try:
        # Not at the top: what it imports is an extra, and would slow down every other command.
        from ..server import keys  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "the keys of a server need more packages: pip install 'runstream[server]'"
        ) from error
    return keys
