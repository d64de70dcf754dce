"""The credentials of a request: where they stand, and which of our tokens they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs

from starlette.types import Scope

from ..errors import InvalidInput, Unauthorized
from . import keys, run_tokens
from .access import Access, Principal
from .grant import Grant, RunPatterns
from .jwt_access import JwtAccess
from .keys import KeyFile
from .loopback import LoopbackAccess, is_loopback
from .run_tokens import RunTokens

# A JWT with many claims has some 2 KiB; whatever is longer need not be decoded.
TOKEN_LENGTH_MAX: Final = 8192

# Tokens that were found good, and are not looked into again (a signature costs 0.2 ms): those of the
# callers of a busy minute, a few MB. Only good ones get here, so strangers cannot fill it.
GRANTS_KEPT_MAX: Final = 1024

_ADVICE: Final = "give a token: set RUNSTREAM_TOKEN, or send Authorization: Bearer …"


class TokenAccess:
    """Asks every caller for a token: a key, a JWT, or a run token."""

    def __init__(
        self, *, keys: KeyFile | None, jwt: JwtAccess | None, run_tokens: RunTokens
    ) -> None:
        self._keys = keys
        self._jwt = jwt
        self._run_tokens = run_tokens
        self._known: dict[str, Grant] = {}

    def identify(self, scope: Scope) -> Principal:
        token = _bearer_token(scope)
        if token is None:
            token = _token_of_address(scope)
        known = self._known.get(token)
        if known is not None and known.still_valid():
            self._check_files()
            return known
        grant = self._grant_of(token)
        if len(self._known) >= GRANTS_KEPT_MAX:
            self._known.clear()
        self._known[token] = grant
        return grant

    def _check_files(self) -> None:
        """Raises LogUnavailable: one cannot be read now."""
        if self._keys is not None:
            self._keys.check()
        if self._jwt is not None:
            self._jwt.check()

    def _grant_of(self, token: str) -> Grant:
        if len(token) > TOKEN_LENGTH_MAX:
            raise Unauthorized("the token is too long to be one of this server")
        if token.startswith(run_tokens.PREFIX):
            return self._of_run_token(token)
        if token.startswith(keys.PREFIX) and self._keys is not None:
            return self._keys.identify(token)
        if self._jwt is not None:
            return self._jwt.identify(token)
        raise Unauthorized("the token is not one of this server")

    def mint(self, principal: Principal, run_id: str, ttl_s: float | None) -> tuple[str, float]:
        return self._run_tokens.mint(
            run_id, ttl_s, by=principal.name, expires_max=principal.expires
        )

    def hide(self, run_id: str) -> str:
        return self._run_tokens.hide(run_id)

    def reveal(self, hidden: str) -> str:
        return self._run_tokens.reveal(hidden)

    def describe(self) -> str:
        kinds = [("keys", self._keys), ("JWT", self._jwt)]
        return " and ".join(name for name, found in kinds if found is not None)

    def _of_run_token(self, token: str) -> Grant:
        claims = self._run_tokens.verify(token)
        if not self._has_giver(claims.by):
            raise Unauthorized("the key that the run token came from has been withdrawn")
        return Grant(
            f"run-token:{claims.run}",
            frozenset({"runs:read"}),
            RunPatterns(frozenset({claims.run}), ()),
            claims.exp,
            lambda: self._has_giver(claims.by),
        )

    def _has_giver(self, name: str) -> bool:
        return not name.startswith("key:") or (self._keys is not None and self._keys.knows(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Where an operator keeps them: `runstream serve` has an option for each."""

    keys_file: Path | None = None
    jwt_secret_file: Path | None = None
    jwks_file: Path | None = None
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    run_token_secret_file: Path | None = None


def choose_access(host: str, credentials: Credentials, *, origins: tuple[str, ...] = ()) -> Access:
    """What a server that listens on `host` asks of its callers; `origins` are the web pages that may call.

    Raises InvalidInput: there are no credentials, and `host` can be reached from elsewhere; or a file
    cannot be used.
    """
    with_jwt = credentials.jwt_secret_file or credentials.jwks_file
    if not with_jwt and (credentials.jwt_issuer or credentials.jwt_audience):
        raise InvalidInput("an issuer or audience of JWTs goes with a secret or a key set of them")
    if credentials.keys_file is None and not with_jwt:
        if not is_loopback(host):
            raise InvalidInput(
                f"whoever reaches {host} could read and write every run: create a key with "
                "`runstream token create-key` and serve with its --keys FILE, or listen on 127.0.0.1"
            )
        return LoopbackAccess(origins)
    return TokenAccess(
        keys=None if credentials.keys_file is None else KeyFile(credentials.keys_file),
        jwt=JwtAccess(
            secret_file=credentials.jwt_secret_file,
            jwks_file=credentials.jwks_file,
            issuer=credentials.jwt_issuer,
            audience=credentials.jwt_audience,
        )
        if with_jwt
        else None,
        run_tokens=_run_tokens(credentials),
    )


def run_token_secret_file(keys_file: Path) -> Path:
    """Where the secret of run tokens is unless an operator says otherwise: beside the keys."""
    return keys_file.with_name(f"{keys_file.name}.run-token-secret")


def _run_tokens(credentials: Credentials) -> RunTokens:
    if credentials.run_token_secret_file is not None:
        return RunTokens(run_tokens.read_secret(credentials.run_token_secret_file))
    if credentials.keys_file is not None:
        beside = run_token_secret_file(credentials.keys_file)
        return RunTokens(run_tokens.read_or_make_secret(beside))
    return RunTokens.with_new_secret()


def _bearer_token(scope: Scope) -> str | None:
    """The token of the Authorization header (RFC 6750, section 2.1); None: there is no such header."""
    found: list[bytes] = [value for name, value in scope["headers"] if name == b"authorization"]
    if not found:
        return None
    kind, _, token = found[0].decode("latin-1").partition(" ")
    if len(found) > 1 or kind.lower() != "bearer" or not token.strip():
        raise Unauthorized(f"the Authorization header cannot be used; {_ADVICE}")
    return token.strip()


def _token_of_address(scope: Scope) -> str:
    # Addresses end up in histories and in the logs of proxies, so they may carry run tokens alone.
    query: bytes = scope["query_string"]
    tokens = (
        parse_qs(query.decode("latin-1")).get("access_token") if b"access_token" in query else None
    )
    if not tokens:
        raise Unauthorized(_ADVICE)
    if len(tokens) > 1 or not tokens[0].startswith(run_tokens.PREFIX):
        raise Unauthorized(f"access_token= takes a run token alone; else {_ADVICE}")
    return tokens[0]
