"""`runstream serve`: the HTTP server over a log."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from ..errors import InvalidInput
from ..logs import with_secrets_hidden
from ..retention import AMOUNT_MAX, Retention
from ..settings import read_settings
from .options import debug_option, in_seconds, url_option
from .target import load_target

EXAMPLES: Final = """\b
Examples:
  runstream serve                                  your default log, at 127.0.0.1:4747
  runstream serve --url sqlite:events.db --port 8080
  runstream serve examples/haiku.py                callers can start its workflow
  runstream serve --host 0.0.0.0 --keys keys --tls-cert cert.pem --tls-key key.pem

\b
Exit codes: 0 stopped by SIGTERM or Ctrl-C; 2 usage; 4 the log cannot be used, or the
address is taken.
"""

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command(epilog=EXAMPLES, short_help="Serve a log over HTTP.")
@click.argument("targets", nargs=-1, metavar="[FILE_OR_MODULE[:NAME]]...")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="HOST",
    help="The address to listen on. Beyond this machine, --keys or JWTs are required.",
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=4747,
    show_default=True,
    metavar="PORT",
    help="The port to listen on.",
)
@click.option("--tls-cert", type=_FILE, metavar="FILE", help="Serve HTTPS with this certificate …")
@click.option("--tls-key", type=_FILE, metavar="FILE", help="… and its key (both PEM).")
@click.option(
    "--keys",
    type=_FILE,
    metavar="FILE",
    help="Require callers to show one of the keys in this file.",
)
@click.option(
    "--jwt-secret", type=_FILE, metavar="FILE", help="Accept JWTs signed with this secret (HS256)."
)
@click.option(
    "--jwks",
    type=_FILE,
    metavar="FILE",
    help="Accept JWTs signed by one of these keys (RS256, ES256).",
)
@click.option("--jwt-issuer", metavar="TEXT", help="The `iss` that JWTs must have.")
@click.option("--jwt-audience", metavar="TEXT", help="The `aud` that JWTs must have.")
@click.option(
    "--run-token-secret",
    type=_FILE,
    metavar="FILE",
    help="The secret that signs run tokens. Default: a file beside the keys, or else a new secret at each "
    "start.",
)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this origin call the server. Repeatable.",
)
@click.option(
    "--keep-records",
    type=click.IntRange(1, AMOUNT_MAX),
    metavar="N",
    help="Keep the newest N records of each run.",
)
@click.option(
    "--keep-bytes",
    type=click.IntRange(1, AMOUNT_MAX),
    metavar="N",
    help="Keep the newest N bytes of each run's payloads.",
)
@click.option(
    "--keep-for",
    callback=in_seconds,
    metavar="TIME",
    help="Keep each record for 12h, 7d … (To remove ended runs as a whole: ?retention=30d in the log's URL.)",
)
@click.option("--no-streaming", is_flag=True, help="Switch streaming off: event routes answer 501.")
@click.option(
    "--log-level",
    type=click.Choice(("debug", "info", "warning", "error")),
    default="warning",
    show_default=True,
    help="What to log on stderr; info and debug include each request.",
)
@click.option("--log-json", is_flag=True, help="Log as JSON, one object per line.")
@url_option
@debug_option
def serve(
    targets: tuple[str, ...],
    host: str,
    port: int,
    url: str | None,
    cors_origins: tuple[str, ...],
    **options: Any,
) -> None:
    """Serve a log over HTTP, so that anyone can publish and follow, from browsers too.

    The workflows and pipelines that you name can be started over HTTP; they run in this process.

    SIGTERM or Ctrl-C stops it within seconds: it tells subscribers, and finishes storing what it has
    received.
    """
    try:
        # Not at the top: what they import is an extra, and would slow down every other command.
        from ..server import app as server_app  # noqa: PLC0415
        from ..server import credentials, log_lines, loopback, serving, site  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InvalidInput(
            "serving needs more packages: pip install 'runstream[server]'"
        ) from error
    log_lines.set_up_logging(options["log_level"], as_json=options["log_json"])
    settings = read_settings()
    log_url = url or settings.url
    listening = serving.Listening(
        host=host, port=port, tls_cert=options["tls_cert"], tls_key=options["tls_key"]
    )
    access = credentials.choose_access(
        host,
        credentials.Credentials(
            keys_file=options["keys"],
            jwt_secret_file=options["jwt_secret"],
            jwks_file=options["jwks"],
            jwt_issuer=options["jwt_issuer"],
            jwt_audience=options["jwt_audience"],
            run_token_secret_file=options["run_token_secret"],
        ),
        origins=cors_origins,
    )
    app = server_app.create_app(
        log_url,
        options=site.ServerOptions(
            streaming=not options["no_streaming"],
            cors_origins=cors_origins,
            # What is given here counts instead of the environment's.
            retention=Retention(
                records=options["keep_records"] or settings.retention.records,
                size_bytes=options["keep_bytes"] or settings.retention.size_bytes,
                age=options["keep_for"] or settings.retention.age,
            ),
        ),
        access=access,
        workflows=[load_target(target) for target in targets],
    )

    def on_ready() -> None:
        shown = with_secrets_hidden(log_url)
        click.echo(
            f"runstream serves {shown} at {listening.url} (auth: {access.describe()})", err=True
        )
        if listening.tls_cert is None and not loopback.is_loopback(host):
            click.echo(
                "Without TLS whoever is on the way reads the keys: give --tls-cert, or let a proxy "
                "in front speak HTTPS.",
                err=True,
            )

    serving.run(app, listening, on_ready)
