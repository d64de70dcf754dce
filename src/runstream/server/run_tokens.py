"""Run tokens: short-lived, read-only, for one run. What a browser may carry in an address.

A token is a JWT (RFC 7519) under a secret of this server, behind a prefix that tells it from all others. The
same secret hides what a caller carries for the server and must not read.
"""

from __future__ import annotations

import base64
import contextlib
import hmac
import os
import secrets
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
from cryptography.fernet import Fernet, InvalidToken

from ..errors import InvalidInput, Unauthorized
from ..record import check_run_id

PREFIX: Final = "rst_"
# Long enough for a page to load and to reconnect; a page that stays open fetches another one.
RUN_TOKEN_S_DEFAULT: Final = 15 * 60.0
RUN_TOKEN_S_MAX: Final = 24 * 3600.0
# HS256 asks for a key as long as its hash (RFC 7518, section 3.2).
SECRET_BYTES_MIN: Final = 32

# No run id begins so.
HIDDEN: Final = "~"

_ALGORITHM: Final = "HS256"
_AUDIENCE: Final = "runstream:run"


class RunClaims(msgspec.Struct, frozen=True):
    """What a run token says: the run, when it expires (seconds since 1970), and who handed it out."""

    run: str
    exp: float
    by: str


class RunTokens:
    """Makes and checks the run tokens of one secret."""

    def __init__(self, secret: bytes) -> None:
        if len(secret) < SECRET_BYTES_MIN:
            raise InvalidInput(
                f"the secret of run tokens has {len(secret)} bytes; use {SECRET_BYTES_MIN} random "
                "bytes or more"
            )
        self._secret = secret
        key = hmac.digest(secret, b"runstream:hidden", "sha256")
        self._hiding = Fernet(base64.urlsafe_b64encode(key))

    @classmethod
    def with_new_secret(cls) -> RunTokens:
        """Tokens that live as long as this process."""
        return cls(secrets.token_bytes(SECRET_BYTES_MIN))

    def mint(
        self, run_id: str, ttl_s: float | None, *, by: str, expires_max: float | None = None
    ) -> tuple[str, float]:
        """A token that reads `run_id`, and when it expires.

        After `ttl_s` seconds, lowered to the limit, and at `expires_max` at the latest.

        Raises InvalidInput: not a run id, or not a time above 0.
        """
        check_run_id(run_id)
        ttl_s = RUN_TOKEN_S_DEFAULT if ttl_s is None else ttl_s
        if not ttl_s > 0:
            raise InvalidInput(f"ttl_s is a number of seconds above 0, not {ttl_s}")
        expires = time.time() + min(ttl_s, RUN_TOKEN_S_MAX)
        if expires_max is not None:
            expires = min(expires, expires_max)
        claims = {"aud": _AUDIENCE, "run": run_id, "exp": expires, "by": by}
        return PREFIX + jwt.encode(claims, self._secret, _ALGORITHM), expires

    def verify(self, token: str) -> RunClaims:
        """Raises Unauthorized: not one of ours, or expired."""
        try:
            claims: dict[str, Any] = jwt.decode(
                token.removeprefix(PREFIX),
                self._secret,
                [_ALGORITHM],
                audience=_AUDIENCE,
                # To the fraction of a second, which the library cuts off.
                options={"require": ["exp", "aud"], "verify_exp": False},
            )
            found = msgspec.convert(claims, RunClaims)
        except (jwt.PyJWTError, msgspec.MsgspecError, ValueError, RecursionError):
            raise Unauthorized("the run token is not one of this server") from None
        if time.time() >= found.exp:
            raise Unauthorized("the run token has expired: get another one")
        return found

    def hide(self, text: str) -> str:
        """`text` for somebody who brings it back, and learns nothing from it but its length."""
        return HIDDEN + self._hiding.encrypt(text.encode()).decode()

    def reveal(self, hidden: str) -> str:
        """What `hide` was given. Raises InvalidInput: it was not hidden under this secret."""
        try:
            return self._hiding.decrypt(hidden.removeprefix(HIDDEN)).decode()
        except (InvalidToken, ValueError):  # (what is not ASCII)
            raise InvalidInput("before= takes the next of the last page, unchanged") from None


def read_secret(path: Path) -> bytes:
    """The secret in a file: its bytes, without white space at the end (editors add a line break).

    Raises InvalidInput: it cannot be read, or is too short.
    """
    try:
        secret = path.read_bytes().rstrip()
    except OSError as error:
        raise InvalidInput(f"cannot read the secret {path}: {error.strerror}") from None
    if len(secret) < SECRET_BYTES_MIN:
        raise InvalidInput(
            f"the secret in {path} has {len(secret)} bytes: use {SECRET_BYTES_MIN} or more, random"
        )
    return secret


def read_or_make_secret(path: Path) -> bytes:
    """The secret in the file, which is made, for its owner's eyes only, if it is not there.

    Of servers that start at the same time all take the one that was there first.
    """
    if path.exists():
        return read_secret(path)
    try:
        # Written elsewhere first: nobody may meet a file that is there and empty.
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.") as new:
            new.write(secrets.token_urlsafe(SECRET_BYTES_MIN).encode() + b"\n")
            new.flush()
            with contextlib.suppress(FileExistsError):
                os.link(new.name, path)
    except OSError as error:
        raise InvalidInput(f"cannot write the secret {path}: {error.strerror}") from None
    return read_secret(path)
