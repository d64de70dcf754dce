"""One request to a server, for commands that ask more of it than a log's own verbs."""

from __future__ import annotations

import http.client
import ssl
from typing import Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from ..api import JSON
from ..errors import InvalidInput, LogUnavailable, NotALog
from ..problem import MEDIA_TYPE, Problem, error_of
from ..settings import read_settings

# A server that says nothing for this time is taken for dead.
ANSWER_S_MAX: Final = 10.0


def is_server(url: str) -> bool:
    """Whether a log's URL is that of a server."""
    return url.startswith(("http://", "https://"))


def call_server(url: str, method: str, path: str, body: bytes | None = None) -> bytes:
    """The body of the answer; `path` goes behind the server's own. Blocks. The token is `RUNSTREAM_TOKEN`.

    Raises:
        InvalidInput: not a server's URL.
        LogUnavailable: no answer.
        NotALog: an answer that is not one of a server of ours.
        RunstreamError: what the server refused, and why.
    """
    if not is_server(url):
        raise InvalidInput("this needs a server: give its address, --url http://HOST:PORT")
    parts = urlsplit(url)
    headers = {"Accept": JSON}
    if body is not None:
        headers["Content-Type"] = JSON
    token = read_settings().token
    if token is not None:
        headers["Authorization"] = f"Bearer {token}"
    try:
        line = _connection(parts.scheme, parts.netloc, dict(parse_qsl(parts.query)).get("ca"))
        try:
            line.request(method, parts.path.rstrip("/") + path, body, headers)
            answer = line.getresponse()
            content = answer.read()
        finally:
            line.close()
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise LogUnavailable(f"no answer from {parts.scheme}://{parts.netloc}: {error}") from None
    if answer.status < http.HTTPStatus.BAD_REQUEST:
        return content
    if (answer.getheader("Content-Type") or "").startswith(MEDIA_TYPE):
        try:
            raise error_of(msgspec.json.decode(content, type=Problem))
        except msgspec.MsgspecError:
            pass
    raise NotALog(
        f"{parts.scheme}://{parts.netloc}{path} answered {answer.status}: is it Runstream?"
    )


def _connection(scheme: str, host: str, ca: str | None) -> http.client.HTTPConnection:
    if scheme == "http":
        return http.client.HTTPConnection(host, timeout=ANSWER_S_MAX)
    trusted = ssl.create_default_context(cafile=ca)
    return http.client.HTTPSConnection(host, timeout=ANSWER_S_MAX, context=trusted)
