"""`runstream serve`: the HTTP server over a log."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import click

from ..errors import InvalidInput
from ..logs import with_secrets_hidden
from ..settings import read_settings
from .options import debug_option, url_option

EXAMPLES: Final = """\b
Examples:
  runstream serve                                  the log in your user data folder, at 127.0.0.1:4747
  runstream serve --url sqlite:events.db --port 8080

\b
Exit codes: 0 stopped by SIGTERM or Ctrl-C; 2 usage; 4 the log cannot be used, or the
address is taken.
"""


@click.command(epilog=EXAMPLES, short_help="Serve a log over HTTP.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, metavar="HOST", help="Where to listen."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=4747,
    show_default=True,
    metavar="PORT",
    help="Where to listen.",
)
@click.option(
    "--tls-cert",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Serve HTTPS with this certificate (PEM) …",
)
@click.option("--tls-key", type=click.Path(path_type=Path), metavar="FILE", help="… and its key.")
@click.option("--no-streaming", is_flag=True, help="Switch streaming off: event routes answer 501.")
@url_option
@debug_option
def serve(
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    no_streaming: bool,
    url: str | None,
) -> None:
    """Serve a log over HTTP: publish into it, follow it, by any client, browsers included.

    Stops on SIGTERM or Ctrl-C: subscribers are told, what is being stored is stored, and it is gone in
    seconds.
    """
    try:
        # Not at the top: what they import is an extra, and would slow down every other command.
        from ..server import app as server_app  # noqa: PLC0415
        from ..server import serving, site  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "serving needs more packages: pip install 'runstream[server]'"
        ) from error
    if (tls_cert is None) != (tls_key is None):
        raise InvalidInput("--tls-cert and --tls-key go together")
    log_url = url or read_settings().url
    listening = serving.Listening(host=host, port=port, tls_cert=tls_cert, tls_key=tls_key)
    app = server_app.create_app(log_url, options=site.ServerOptions(streaming=not no_streaming))

    def on_ready() -> None:
        click.echo(f"runstream serves {with_secrets_hidden(log_url)} at {listening.url}", err=True)

    asyncio.run(serving.serve(app, listening, on_ready))
