"""JSON Web Tokens of an identity provider (RFC 7519): HS256 by a secret, RS256 and ES256 by a key set.

The algorithm of a token only chooses among the keys that were made for it: a public key is never taken
for a secret, and `none` is no algorithm.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec

from ..errors import InvalidInput, Unauthorized
from .access import PERMISSIONS
from .grant import Grant, RunPatterns
from .run_tokens import read_secret
from .watched_file import WatchedFile

# Two machines' clocks differ; half a minute is what their owners don't notice.
LEEWAY_S: Final = 30.0

_KEY_TYPES: Final = {"RS256": "RSA", "ES256": "EC"}
_REFUSED: Final = "the token is not valid here"


class Claims(msgspec.Struct, frozen=True):
    """What we read of a token. `scope` is a list of words (RFC 8693); `runs` are run patterns."""

    exp: float
    sub: str = ""
    scope: str | list[str] = ""
    runs: list[str] | None = None


class _Header(msgspec.Struct, frozen=True):
    """Which key a token says it was signed with."""

    alg: str
    kid: str | None = None


@dataclass(frozen=True, slots=True)
class PublicKey:
    """One key of a key set, with its own description, and as the library wants it."""

    alg: str
    kid: object
    described: dict[str, Any]
    key: Any


class JwtAccess:
    """Checks the tokens of one issuer.

    Raises InvalidInput: a file cannot be read, or holds no key that can be used.
    """

    def __init__(
        self,
        *,
        secret_file: Path | None = None,
        jwks_file: Path | None = None,
        issuer: str | None = None,
        audience: str | None = None,
    ) -> None:
        self._secret = None if secret_file is None else read_secret(secret_file)
        self._jwks = None if jwks_file is None else WatchedFile(jwks_file, parse_jwks)
        self._issuer = issuer
        self._audience = audience

    def identify(self, token: str) -> Grant:
        """Raises Unauthorized: forged, expired, or for somebody else."""
        required = ["exp", *(["iss"] if self._issuer else []), *(["aud"] if self._audience else [])]
        try:
            header = msgspec.convert(jwt.get_unverified_header(token), _Header)
            public = None if header.alg == "HS256" else self._find(header)
            decoded: dict[str, Any] = jwt.decode(
                token,
                self._required_secret() if public is None else public.key,
                [header.alg],
                audience=self._audience,
                issuer=self._issuer,
                leeway=LEEWAY_S,
                options={"require": required},
            )
            claims = msgspec.convert(decoded, Claims)
            return self._grant(header, public, claims)
        except jwt.ExpiredSignatureError:
            raise Unauthorized("the token has expired") from None
        except (
            jwt.PyJWTError,
            msgspec.MsgspecError,
            ValueError,
            OverflowError,
            RecursionError,
        ):
            # Which check failed is not told: it would help those who forge more than those who err.
            raise Unauthorized(_REFUSED) from None

    def check(self) -> None:
        """Raises LogUnavailable: the key set cannot be read now."""
        if self._jwks is not None:
            self._jwks.current()

    def _grant(self, header: _Header, public: PublicKey | None, claims: Claims) -> Grant:
        words = claims.scope.split() if isinstance(claims.scope, str) else claims.scope
        return Grant(
            f"jwt:{claims.sub[:64]!r}",
            frozenset(words).intersection(PERMISSIONS),
            None if claims.runs is None else RunPatterns.parse(claims.runs),
            claims.exp + LEEWAY_S,
            lambda: public is None or self._still_has(header, public),
        )

    def _required_secret(self) -> bytes:
        if self._secret is None:
            raise Unauthorized(_REFUSED)
        return self._secret

    def _find(self, header: _Header) -> PublicKey:
        """The key of the set that the header names. Raises Unauthorized: none, or more than one."""
        if self._jwks is None:
            raise Unauthorized(_REFUSED)
        fitting = _fitting(self._jwks.current(), header)
        # Without an id a token fits one key alone, or we would have to guess.
        if len(fitting) != 1:
            raise Unauthorized(_REFUSED)
        return fitting[0]

    def _still_has(self, header: _Header, public: PublicKey) -> bool:
        """Whether the set still names that very key."""
        found = [] if self._jwks is None else _fitting(self._jwks.latest(), header)
        return [key.described for key in found] == [public.described]


def _fitting(keys: list[PublicKey], header: _Header) -> list[PublicKey]:
    return [
        key
        for key in keys
        if key.alg == header.alg and (header.kid is None or header.kid == key.kid)
    ]


def parse_jwks(text: bytes) -> list[PublicKey]:
    """The keys of a JSON Web Key Set (RFC 7517) that can check signatures of ours.

    Raises InvalidInput: it is not one, or has no such key.
    """
    try:
        keys: list[dict[str, Any]] = msgspec.json.decode(text)["keys"]
        fitting = [
            (key, algorithm)
            for key in keys
            for algorithm, kind in _KEY_TYPES.items()
            if key.get("kty") == kind
            and key.get("use", "sig") == "sig"
            and key.get("alg", algorithm) == algorithm
            and (kind != "EC" or key.get("crv") == "P-256")
        ]
        if any("d" in key for key, _ in fitting):
            raise InvalidInput("a private key in this JSON Web Key Set: give the public ones")
        found = [
            PublicKey(algorithm, key.get("kid"), key, jwt.PyJWK(key, algorithm).key)
            for key, algorithm in fitting
        ]
    except InvalidInput:
        raise
    except (
        msgspec.MsgspecError,
        jwt.PyJWTError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ):
        raise InvalidInput("not a JSON Web Key Set") from None
    if not found:
        raise InvalidInput("no key for RS256 or ES256 in this JSON Web Key Set")
    return found
