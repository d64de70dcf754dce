from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import Scope

from runstream.errors import Forbidden, InvalidInput, LogUnavailable, Unauthorized
from runstream.server.access import OpenAccess, Principal
from runstream.server.credentials import (
    GRANTS_KEPT_MAX,
    Credentials,
    TokenAccess,
    choose_access,
    run_token_secret_file,
)
from runstream.server.keys import KeyFile, create_key, revoke_key
from runstream.server.loopback import LoopbackAccess
from runstream.server.run_tokens import RUN_TOKEN_S_MAX, RunTokens, read_or_make_secret
from runstream.server.watched_file import LOOK_S


def scope_of(token: str | None = None, *, query: str = "", **headers: str) -> Scope:
    found = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    if token is not None:
        found.append((b"authorization", f"Bearer {token}".encode()))
    return {"type": "http", "headers": found, "query_string": query.encode()}


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_without_a_token_nobody_gets_in(keys_file: Path) -> None:
    create_key(keys_file, ("admin",))
    access = choose_access("0.0.0.0", Credentials(keys_file=keys_file))
    for scope in (
        scope_of(),
        scope_of(query="access_token="),
        scope_of(query="after=access_token"),
        scope_of(authorization="Basic dXNlcjpwYXNz"),
        scope_of(authorization="Bearer"),
        scope_of(authorization="Bearer  "),
        scope_of("rsk_a_b", authorization="Bearer rsk_a_b"),
        scope_of("x" * 9000),
        scope_of("eyJhbGciOiJub25lIn0.e30."),
        scope_of("rst_"),
        scope_of("rst_\xff"),
    ):
        with pytest.raises(Unauthorized):
            access.identify(scope)


def test_a_key_works_in_the_header_and_never_in_the_address(keys_file: Path) -> None:
    key, _ = create_key(keys_file, ("admin",))
    access = choose_access("0.0.0.0", Credentials(keys_file=keys_file))
    assert access.describe() == "keys"
    access.identify(scope_of(key)).require("admin")
    access.identify(scope_of(authorization=f"bearer {key}")).require("admin")
    with pytest.raises(Unauthorized, match="access_token= takes a run token alone") as caught:
        access.identify(scope_of(query=f"access_token={key}"))
    assert key not in str(caught.value)


def test_a_run_token_reads_one_run_and_does_nothing_else(keys_file: Path) -> None:
    key, _ = create_key(keys_file, ("admin",))
    access = choose_access("0.0.0.0", Credentials(keys_file=keys_file))
    token, expires = access.mint(access.identify(scope_of(key)), "nightly", 60)
    assert 58 < expires - time.time() <= 60
    for scope in (
        scope_of(token),
        scope_of(query=f"access_token={token}"),
        scope_of(query=f"after=x&access_token={token}"),
    ):
        reader = access.identify(scope)
        assert reader.expires == expires
        assert reader.still_valid()
        reader.require("runs:read", "nightly")
        assert not reader.allows("runs:read", "nightly2")
        for permission in ("runs:write", "runs:start", "admin"):
            with pytest.raises(Forbidden):
                reader.require(permission, "nightly")
        assert token not in repr(reader)


async def test_a_run_token_expires(keys_file: Path) -> None:
    key, _ = create_key(keys_file, ("admin",))
    access = choose_access("0.0.0.0", Credentials(keys_file=keys_file))
    token, expires = access.mint(access.identify(scope_of(key)), "nightly", 1.0)
    reader = access.identify(scope_of(token))
    await until_invalid(reader)
    assert time.time() >= expires
    with pytest.raises(Unauthorized, match="run token has expired"):
        access.identify(scope_of(token))


async def until_invalid(principal: Principal) -> None:
    async with asyncio.timeout(30):
        while principal.still_valid():
            await asyncio.sleep(0.005)


def test_a_run_token_lives_no_longer_than_the_token_it_came_from(keys_file: Path) -> None:
    key, _ = create_key(keys_file, ("admin",), expires=time.time() + 100)
    access = choose_access("0.0.0.0", Credentials(keys_file=keys_file))
    token, expires = access.mint(access.identify(scope_of(key)), "nightly", 3600)
    assert expires < time.time() + 101
    again, _ = access.mint(access.identify(scope_of(token)), "nightly", 3600)
    assert access.identify(scope_of(again)).expires == expires


def test_a_run_token_dies_with_the_key_it_came_from(keys_file: Path) -> None:
    key, entry = create_key(keys_file, ("admin",))
    access = choose_access("0.0.0.0", Credentials(keys_file=keys_file))
    token, _ = access.mint(access.identify(scope_of(key)), "nightly", 3600)
    revoke_key(keys_file, entry.id)
    restarted = choose_access("0.0.0.0", Credentials(keys_file=keys_file))
    with pytest.raises(Unauthorized, match="withdrawn"):
        restarted.identify(scope_of(token))


def test_run_tokens_survive_a_restart_and_are_of_no_use_elsewhere(
    keys_file: Path, tmp_path: Path
) -> None:
    key, _ = create_key(keys_file, ("admin",))
    access = choose_access("0.0.0.0", Credentials(keys_file=keys_file))
    token, _ = access.mint(access.identify(scope_of(key)), "nightly", 60)
    again = choose_access("0.0.0.0", Credentials(keys_file=keys_file))
    again.identify(scope_of(token)).require("runs:read", "nightly")
    assert run_token_secret_file(keys_file).stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other"
    read_or_make_secret(other)
    elsewhere = choose_access(
        "0.0.0.0", Credentials(keys_file=keys_file, run_token_secret_file=other)
    )
    with pytest.raises(Unauthorized, match="not one of this server"):
        elsewhere.identify(scope_of(token))


def test_the_time_of_a_run_token_is_bounded() -> None:
    tokens = RunTokens.with_new_secret()
    assert tokens.mint("a", float("inf"), by="x")[1] <= time.time() + RUN_TOKEN_S_MAX
    for ttl_s in (0, -1, float("nan")):
        with pytest.raises(InvalidInput, match="above 0"):
            tokens.mint("a", ttl_s, by="x")
    with pytest.raises(InvalidInput, match="not a run id"):
        tokens.mint("../a", None, by="x")


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "example.com", "", "127.0.0.1.nip.io"]
)
def test_a_server_that_others_reach_is_refused_without_credentials(host: str) -> None:
    with pytest.raises(InvalidInput, match="create a key with `runstream token create-key`"):
        choose_access(host, Credentials())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.1.2.3"])
def test_loopback_needs_no_credentials(host: str) -> None:
    access = choose_access(host, Credentials())
    assert isinstance(access, LoopbackAccess)
    name = f"[{host}]" if host == "::1" else host
    access.identify(scope_of(host=f"{name}:4747")).require("admin")


def test_files_that_cannot_be_used_are_told_at_the_start(tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("secret\n")
    for credentials, message in (
        (Credentials(keys_file=tmp_path / "none"), "cannot read"),
        (Credentials(jwt_secret_file=tmp_path / "none"), "cannot read"),
        (Credentials(jwt_secret_file=short), "has 6 bytes"),
        (Credentials(jwks_file=short), "not a JSON Web Key Set"),
        (Credentials(jwt_issuer="me"), "goes with a secret"),
    ):
        with pytest.raises(InvalidInput, match=message) as caught:
            choose_access("127.0.0.1", credentials)
        assert "secret\n" not in str(caught.value)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:4747", "127.0.0.1.evil.example", "10.0.0.1", "", "[::", "@"],
)
def test_without_auth_a_name_that_was_made_to_point_here_is_refused(host: str) -> None:
    with pytest.raises(Forbidden, match=r"localhost and 127\.0\.0\.1 alone"):
        LoopbackAccess().identify(scope_of(host=host))


def test_without_auth_pages_from_elsewhere_are_refused_unless_listed() -> None:
    access = LoopbackAccess(("https://app.example",))
    host = "127.0.0.1:4747"
    for origin in ("http://localhost:3000", "http://127.0.0.1:4747", "https://app.example"):
        access.identify(scope_of(host=host, origin=origin))
    for origin in (
        "https://evil.example",
        "null",
        "https://app.example.evil.example",
        "file://",
        "",
    ):
        with pytest.raises(Forbidden, match="pages of that origin"):
            access.identify(scope_of(host=host, origin=origin))


def test_access_that_is_off_takes_everyone_and_still_hands_out_tokens() -> None:
    access = OpenAccess()
    everyone = access.identify(scope_of(host="app.example"))
    everyone.require("admin")
    assert everyone.allows("runs:write", "x")
    assert everyone.still_valid()
    assert access.mint(everyone, "nightly", None)[0].startswith("rst_")


def test_a_token_that_was_good_is_looked_into_again_when_its_key_is_gone(keys_file: Path) -> None:
    key, entry = create_key(keys_file, ("admin",))
    keys = KeyFile(keys_file)
    access = TokenAccess(keys=keys, jwt=None, run_tokens=RunTokens.with_new_secret())
    assert access.identify(scope_of(key)) is access.identify(scope_of(key))
    token, _ = access.mint(access.identify(scope_of(key)), "nightly", 60)
    access.identify(scope_of(token))
    revoke_key(keys_file, entry.id)
    keys._file._looked -= LOOK_S  # pyright: ignore[reportPrivateUsage] - as if a second had passed
    for one in (key, token):
        with pytest.raises(Unauthorized):
            access.identify(scope_of(one))
    keys_file.unlink()
    keys._file._looked -= LOOK_S  # pyright: ignore[reportPrivateUsage] - likewise
    with pytest.raises(LogUnavailable):
        access.identify(scope_of(key))


def test_a_good_token_too_waits_while_the_keys_cannot_be_read(keys_file: Path) -> None:
    key, _ = create_key(keys_file, ("admin",))
    keys = KeyFile(keys_file)
    access = TokenAccess(keys=keys, jwt=None, run_tokens=RunTokens.with_new_secret())
    access.identify(scope_of(key))
    keys_file.unlink()
    keys._file._looked -= LOOK_S  # pyright: ignore[reportPrivateUsage] - as if a second had passed
    with pytest.raises(LogUnavailable):
        access.identify(scope_of(key))


@settings(deadline=None)  # files are written
@given(
    headers=st.lists(
        st.tuples(st.sampled_from([b"authorization", b"host", b"origin"]), st.binary())
    ),
    query=st.binary(),
    token=st.sampled_from(
        [b"", b"Bearer rsk_", b"Bearer rst_", b"Bearer e30.", b"access_token=rst_"]
    ),
)
def test_whatever_strangers_send_is_refused_and_never_a_fault(
    headers: list[tuple[bytes, bytes]], query: bytes, token: bytes
) -> None:
    with TemporaryDirectory() as folder:
        keys_file = Path(folder) / "keys"
        create_key(keys_file, ("admin",))
        secret = Path(folder) / "secret"
        secret.write_text("x" * 40)
        access = choose_access("0.0.0.0", Credentials(keys_file=keys_file, jwt_secret_file=secret))
        for scope in (
            {"headers": headers, "query_string": token + query},
            {"headers": [(b"authorization", token + query)], "query_string": query},
            {"headers": headers, "query_string": b"access_token=" + token + query},
        ):
            with pytest.raises(Unauthorized):
                access.identify(scope)
            with suppress(Forbidden):
                LoopbackAccess().identify(scope)


def test_what_is_remembered_of_good_tokens_is_bounded(keys_file: Path) -> None:
    key, _ = create_key(keys_file, ("admin",))
    access = choose_access("0.0.0.0", Credentials(keys_file=keys_file))
    assert isinstance(access, TokenAccess)
    tokens = RunTokens(read_or_make_secret(run_token_secret_file(keys_file)))
    for number in range(GRANTS_KEPT_MAX + 10):
        access.identify(scope_of(tokens.mint(f"r{number}", 60, by="x")[0]))
        with pytest.raises(Unauthorized):
            access.identify(scope_of(f"rsk_{number}"))
    assert len(access._known) <= GRANTS_KEPT_MAX  # pyright: ignore[reportPrivateUsage] - what it holds is the point
    access.identify(scope_of(key)).require("admin")


def test_servers_that_start_at_once_share_the_secret_of_the_first(tmp_path: Path) -> None:
    # Each waits for the others, and makes or finds it.
    path = tmp_path / "keys.run-token-secret"
    together = threading.Barrier(8)

    def start(_number: int) -> bytes:
        together.wait()
        return read_or_make_secret(path)

    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(start, range(8)))
    assert secrets == {path.read_bytes().rstrip()}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
