from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from runstream.errors import Forbidden, InvalidInput, Unauthorized
from runstream.server.jwt_access import LEEWAY_S, JwtAccess, parse_jwks
from runstream.server.run_tokens import RunTokens
from runstream.server.watched_file import LOOK_S

SECRET = "a secret of at least thirty-two bytes, for tests"
RSA_KEY = rsa.generate_private_key(65537, 2048)
OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_PUBLIC_PEM = RSA_KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
)


def rsa_jwk(key: rsa.RSAPrivateKey, kid: str) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid}


def ec_jwk(key: ec.EllipticCurvePrivateKey, kid: str) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid}


JWKS = {"keys": [rsa_jwk(RSA_KEY, "r1"), ec_jwk(EC_KEY, "e1")]}


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(SECRET + "\n")
    return path


@pytest.fixture
def jwks_file(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps(JWKS))
    return path


def replace(jwks_file: Path, *keys: dict[str, Any]) -> None:
    """By another file: one that is written over keeps its time on systems whose clocks are coarse."""
    new = jwks_file.with_suffix(".new")
    new.write_text(json.dumps({"keys": keys}))
    new.replace(jwks_file)


def claims(**more: Any) -> dict[str, Any]:
    found = {"sub": "ci", "exp": time.time() + 3600, "scope": "openid runs:read", **more}
    return {name: value for name, value in found.items() if value is not None}


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def test_a_token_by_the_secret_is_accepted(secret_file: Path) -> None:
    grant = JwtAccess(secret_file=secret_file).identify(jwt.encode(claims(), SECRET, "HS256"))
    grant.require("runs:read", "any")
    assert grant.permissions == {"runs:read"}
    assert grant.still_valid()
    assert grant.name == "jwt:'ci'"
    with pytest.raises(Forbidden):
        grant.require("runs:write", "any")


@pytest.mark.parametrize(("algorithm", "kid"), [("RS256", "r1"), ("ES256", "e1")])
@pytest.mark.parametrize("with_kid", [True, False])
def test_a_token_by_a_key_of_the_set_is_accepted(
    jwks_file: Path, algorithm: str, kid: str, with_kid: bool
) -> None:
    key = RSA_KEY if algorithm == "RS256" else EC_KEY
    token = jwt.encode(claims(), key, algorithm, {"kid": kid} if with_kid else None)
    JwtAccess(jwks_file=jwks_file).identify(token).require("runs:read", "any")


def test_scopes_may_be_a_list_and_runs_narrow_them(secret_file: Path) -> None:
    token = jwt.encode(
        claims(scope=["runs:read", "runs:write"], runs=["nightly", "team-a-*"]), SECRET, "HS256"
    )
    grant = JwtAccess(secret_file=secret_file).identify(token)
    grant.require("runs:write", "team-a-1")
    assert not grant.allows("runs:write", "team-b-1")
    empty = jwt.encode(claims(runs=[]), SECRET, "HS256")
    assert not JwtAccess(secret_file=secret_file).identify(empty).allows("runs:read", "x")


def test_a_token_without_scopes_allows_nothing(secret_file: Path) -> None:
    grant = JwtAccess(secret_file=secret_file).identify(
        jwt.encode(claims(scope=None), SECRET, "HS256")
    )
    with pytest.raises(Forbidden):
        grant.require("runs:read", "any")


FORGED: dict[str, str] = {
    "none": f"{part({'alg': 'none'})}.{part(claims(scope='admin'))}.",
    "none in capitals": f"{part({'alg': 'NONE'})}.{part(claims(scope='admin'))}.",
    "other secret": jwt.encode(claims(), "another " + SECRET, "HS256"),
    "other rsa key": jwt.encode(claims(), OTHER_RSA_KEY, "RS256", {"kid": "r1"}),
    "unknown kid": jwt.encode(claims(), RSA_KEY, "RS256", {"kid": "r9"}),
    "kid of a key of another type": jwt.encode(claims(), RSA_KEY, "RS256", {"kid": "e1"}),
    "kid that is a path": jwt.encode(claims(), RSA_KEY, "RS256", {"kid": "../../dev/null"}),
    "algorithm that is not offered": jwt.encode(claims(), RSA_KEY, "RS512", {"kid": "r1"}),
    "hs512": jwt.encode(claims(), SECRET + SECRET, "HS512"),
    "no exp": jwt.encode(claims(exp=None), SECRET, "HS256"),
    "exp that is no number": jwt.encode(claims(exp="soon"), SECRET, "HS256"),
    "exp beyond all floats": jwt.encode(claims(exp=10**400), SECRET, "HS256"),
    "not yet": jwt.encode(claims(nbf=time.time() + 600), SECRET, "HS256"),
    "for somebody else": jwt.encode(claims(aud="https://other"), SECRET, "HS256"),
    "runs that are no list": jwt.encode(claims(runs="nightly"), SECRET, "HS256"),
    "runs that cannot be": jwt.encode(claims(runs=["a*b"]), SECRET, "HS256"),
    "no token": "abc",
    "three dots": "...",
    "deep header": f"{base64.urlsafe_b64encode(b'[' * 4000).decode()}.e30.x",
    "critical extension": jwt.encode(claims(), SECRET, "HS256", {"crit": ["exp2"], "exp2": 1}),
}


@pytest.mark.parametrize("token", FORGED.values(), ids=FORGED.keys())
def test_forged_and_foreign_tokens_are_refused(
    secret_file: Path, jwks_file: Path, token: str
) -> None:
    access = JwtAccess(secret_file=secret_file, jwks_file=jwks_file)
    with pytest.raises(Unauthorized, match=r"^the token is not valid here$"):
        access.identify(token)


def test_a_public_key_is_never_taken_for_a_secret(jwks_file: Path, secret_file: Path) -> None:
    signed = f"{part({'alg': 'HS256', 'kid': 'r1'})}.{part(claims(scope='admin'))}"
    for secret in (RSA_PUBLIC_PEM, RSA_PUBLIC_PEM.strip(), json.dumps(JWKS["keys"][0]).encode()):
        mac = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
        token = f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        for access in (
            JwtAccess(jwks_file=jwks_file),
            JwtAccess(jwks_file=jwks_file, secret_file=secret_file),
        ):
            with pytest.raises(Unauthorized):
                access.identify(token)


def test_a_changed_claim_breaks_the_signature(secret_file: Path) -> None:
    header, _, signature = jwt.encode(claims(), SECRET, "HS256").split(".")
    with pytest.raises(Unauthorized):
        JwtAccess(secret_file=secret_file).identify(
            f"{header}.{part(claims(scope='admin'))}.{signature}"
        )


def test_clocks_may_differ_by_the_leeway(secret_file: Path) -> None:
    access = JwtAccess(secret_file=secret_file)
    within = jwt.encode(claims(exp=time.time() - LEEWAY_S / 2), SECRET, "HS256")
    assert access.identify(within).still_valid()
    beyond = jwt.encode(claims(exp=time.time() - LEEWAY_S - 2), SECRET, "HS256")
    with pytest.raises(Unauthorized, match="expired"):
        access.identify(beyond)


def test_issuer_and_audience_are_asked_for_when_they_are_set(secret_file: Path) -> None:
    access = JwtAccess(secret_file=secret_file, issuer="https://id.example", audience="runstream")
    good = {"iss": "https://id.example", "aud": ["other", "runstream"]}
    access.identify(jwt.encode(claims(**good), SECRET, "HS256"))
    for wrong in ({"iss": None}, {"aud": None}, {"iss": "https://id.example.evil"}, {"aud": "x"}):
        with pytest.raises(Unauthorized):
            access.identify(jwt.encode(claims(**{**good, **wrong}), SECRET, "HS256"))


def test_a_token_of_a_key_that_left_the_set_ends(jwks_file: Path) -> None:
    access = JwtAccess(jwks_file=jwks_file)
    token = jwt.encode(claims(), RSA_KEY, "RS256", {"kid": "r1"})
    grant = access.identify(token)
    replace(jwks_file, rsa_jwk(OTHER_RSA_KEY, "r2"))
    access._jwks._looked -= LOOK_S  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess, reportPrivateUsage] - as if a second had passed
    assert not grant.still_valid()
    with pytest.raises(Unauthorized):
        access.identify(token)
    access.identify(jwt.encode(claims(), OTHER_RSA_KEY, "RS256", {"kid": "r2"}))


def test_a_token_of_a_key_that_was_replaced_under_its_id_ends(jwks_file: Path) -> None:
    access = JwtAccess(jwks_file=jwks_file)
    grant = access.identify(jwt.encode(claims(), RSA_KEY, "RS256", {"kid": "r1"}))
    other = access.identify(jwt.encode(claims(), EC_KEY, "ES256", {"kid": "e1"}))
    replace(jwks_file, rsa_jwk(OTHER_RSA_KEY, "r1"), ec_jwk(EC_KEY, "e1"))
    access._jwks._looked -= LOOK_S  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess, reportPrivateUsage] - as if a second had passed
    assert not grant.still_valid()
    assert other.still_valid()


def test_a_run_token_is_no_jwt_of_the_operator_even_under_one_secret(secret_file: Path) -> None:
    token, _ = RunTokens(SECRET.encode()).mint("nightly", 60, by="key:x")
    with pytest.raises(Unauthorized):
        JwtAccess(secret_file=secret_file).identify(token.removeprefix("rst_"))
    mine = jwt.encode(claims(run="nightly", by="x"), SECRET, "HS256")
    with pytest.raises(Unauthorized):
        RunTokens(SECRET.encode()).verify("rst_" + mine)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{}", "not a JSON Web Key Set"),
        (b"[]", "not a JSON Web Key Set"),
        (b'{"keys": 1}', "not a JSON Web Key Set"),
        (b'{"keys": [1]}', "not a JSON Web Key Set"),
        (b'{"keys": [{"kty": "RSA", "n": "!", "e": "AQAB"}]}', "not a JSON Web Key Set"),
        (b'{"keys": []}', "no key"),
        (b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "no key"),
        (json.dumps({"keys": [{**rsa_jwk(RSA_KEY, "r"), "use": "enc"}]}).encode(), "no key"),
        (json.dumps({"keys": [{**rsa_jwk(RSA_KEY, "r"), "alg": "RS512"}]}).encode(), "no key"),
        (RSAAlgorithm.to_jwk(RSA_KEY).join(['{"keys": [', "]}"]).encode(), "a private key"),
    ],
)
def test_a_key_set_without_a_key_for_us_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_jwks(text)
