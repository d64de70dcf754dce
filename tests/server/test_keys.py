from __future__ import annotations

import hmac
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from runstream.errors import Forbidden, InvalidInput, LogUnavailable, Unauthorized
from runstream.server import watched_file
from runstream.server.keys import KeyFile, create_key, read_keys, revoke_key
from runstream.server.watched_file import LOOK_S, WatchedFile


def later(file: KeyFile | WatchedFile[bytes]) -> None:
    """As if the second between two looks at the file were over."""
    watched = file._file if isinstance(file, KeyFile) else file  # pyright: ignore[reportPrivateUsage] - time is its only input
    watched._looked -= LOOK_S  # pyright: ignore[reportPrivateUsage] - likewise


def test_the_file_holds_a_hash_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys"
    key, entry = create_key(path, ("runs:read",), name="ci")
    secret = key.split("_", 2)[2]
    assert len(secret) == 43
    assert secret not in path.read_text()
    assert secret not in repr(entry)
    assert path.stat().st_mode & 0o777 == 0o600
    assert {found.name for found in path.parent.iterdir()} == {"keys", "keys.lock"}
    assert [found.name for found in read_keys(path)] == ["ci"]


def test_a_file_that_a_server_of_another_user_reads_stays_so(tmp_path: Path) -> None:
    real, path = tmp_path / "real", tmp_path / "link"
    _, first = create_key(real, ("admin",))
    real.chmod(0o640)
    path.symlink_to(real)
    create_key(path, ("admin",))
    revoke_key(path, first.id)
    assert path.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o640
    assert len(read_keys(real)) == 1


def test_a_key_gives_its_scopes_and_no_others(tmp_path: Path) -> None:
    key, entry = create_key(tmp_path / "keys", ("runs:read", "runs:write"))
    grant = KeyFile(tmp_path / "keys").identify(key)
    assert grant.name == f"key:{entry.id}"
    grant.require("runs:read", "any")
    grant.require("runs:write", "any")
    for permission in ("runs:start", "admin"):
        with pytest.raises(Forbidden, match=permission):
            grant.require(permission, "any")


def test_admin_includes_the_other_scopes(tmp_path: Path) -> None:
    key, _ = create_key(tmp_path / "keys", ("admin",))
    grant = KeyFile(tmp_path / "keys").identify(key)
    grant.require("runs:write", "any")
    grant.require("runs:start")


def test_a_key_is_narrowed_to_runs_and_prefixes(tmp_path: Path) -> None:
    key, _ = create_key(tmp_path / "keys", ("admin",), runs=("nightly", "team-a-*"))
    grant = KeyFile(tmp_path / "keys").identify(key)
    for run_id in ("nightly", "team-a-", "team-a-7"):
        grant.require("runs:read", run_id)
        assert grant.allows("runs:read", run_id)
    for run_id in ("nightly2", "team-b-7", "Nightly", "team-a"):
        assert not grant.allows("runs:read", run_id)
        with pytest.raises(Forbidden, match="does not allow runs:read for that run"):
            grant.require("runs:read", run_id)
    grant.require("runs:read")  # lists are filtered
    for permission in ("runs:start", "runs:write", "admin"):
        with pytest.raises(Forbidden, match="for some runs only"):
            grant.require(permission)


def test_any_other_key_is_refused_with_the_same_words(tmp_path: Path) -> None:
    key, entry = create_key(tmp_path / "keys", ("admin",))
    secret = key.split("_", 2)[2]
    for wrong in (
        key[:-1] + ("A" if key[-1] != "A" else "B"),
        key[:-1],
        key + "x",
        f"rsk_{'0' * 12}_{secret}",
        f"rsk_{entry.id}",
        f"rsk_{entry.id}_",
        f"rsk_{entry.id}_{entry.sha256}",
        "rsk_",
        "rsk__",
        "rsk_\udcff_\xff",
    ):
        with pytest.raises(Unauthorized, match=r"^the key is not one of this server, or has been"):
            KeyFile(tmp_path / "keys").identify(wrong)


def test_secrets_are_compared_in_constant_time_whether_the_id_is_known_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []
    compare = hmac.compare_digest

    def watch(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watch)
    key, _ = create_key(tmp_path / "keys", ("admin",))
    file = KeyFile(tmp_path / "keys")
    file.identify(key)
    for wrong in (key + "x", "rsk_unknown_x"):
        with pytest.raises(Unauthorized):
            file.identify(wrong)
    assert compared == [(64, 64)] * 3


def test_an_expired_key_is_refused(tmp_path: Path) -> None:
    key, _ = create_key(tmp_path / "keys", ("admin",), expires=time.time() - 1)
    with pytest.raises(Unauthorized, match="expired"):
        KeyFile(tmp_path / "keys").identify(key)


def test_a_revoked_key_stops_working_without_a_restart_and_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    key, entry = create_key(path, ("admin",))
    other, _ = create_key(path, ("admin",))
    file = KeyFile(path)
    grant, other_grant = file.identify(key), file.identify(other)
    with monkeypatch.context() as within:
        within.setattr(watched_file, "LOOK_S", 3600.0)  # whatever time this takes
        revoke_key(path, entry.id)
        assert grant.still_valid()  # the file is looked at once a second
    later(file)
    assert not grant.still_valid()
    assert other_grant.still_valid()
    with pytest.raises(Unauthorized):
        file.identify(key)
    file.identify(other)
    with pytest.raises(InvalidInput, match="no key"):
        revoke_key(path, entry.id)


def test_a_key_that_was_narrowed_in_the_file_ends_what_it_granted_before(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    key, _ = create_key(path, ("admin",))
    file = KeyFile(path)
    grant = file.identify(key)
    line = json.loads(path.read_text())
    path.write_text(json.dumps({**line, "scopes": ["runs:read"]}) + "\n\n")
    later(file)
    assert not grant.still_valid()
    assert file.identify(key).permissions == {"runs:read"}


@pytest.mark.parametrize("fault", ["missing", "a pipe", "broken"])
def test_nobody_is_let_in_while_the_file_cannot_be_read_and_nobody_is_called_wrong(
    tmp_path: Path, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys"
    key, entry = create_key(path, ("admin",))
    file = KeyFile(path)
    grant = file.identify(key)
    good = path.read_bytes()
    if fault == "missing":
        path.unlink()
    elif fault == "a pipe":  # reading it would hold up everybody
        path.unlink()
        os.mkfifo(path)
    else:
        path.write_bytes(good + b"{")
    later(file)
    with pytest.raises(LogUnavailable, match="cannot read its credentials"):
        file.identify(key)
    assert grant.still_valid()
    assert "nobody is let in" in caplog.text
    assert entry.sha256 not in caplog.text
    path.unlink(missing_ok=True)
    path.write_bytes(good)
    later(file)
    file.identify(key)


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b'{"id":"a","sha256":"x","scopes":["runs:fly"]}',
        b'{"id":"a","sha256":"x","scopes":["admin"],"runs":["*x"]}',
        b'{"id":"a","sha256":"x","scopes":["admin"]}',
        '{"id":"a","sha256":"é","scopes":["admin"]}'.encode(),
        b'{"id":"a","sha256":"x","scopes":["admin"],"run":["x"]}',
        b"\xff",
    ],
)
def test_a_broken_line_is_named_and_not_shown(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "keys"
    create_key(path, ("admin",))
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(InvalidInput, match="line 2 is not a key"):
        KeyFile(path)
    with pytest.raises(InvalidInput, match="line 2 is not a key"):
        create_key(path, ("admin",))


def test_two_keys_of_one_id_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    create_key(path, ("admin",))
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(InvalidInput, match="line 2 has the id"):
        KeyFile(path)


def test_a_key_needs_a_scope_and_possible_runs(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs a scope"):
        create_key(tmp_path / "keys", ())
    for runs in (("",), ("a*b",), ("-",)):
        with pytest.raises(InvalidInput):
            create_key(tmp_path / "keys", ("admin",), runs=runs)
    assert not (tmp_path / "keys").exists()


def test_keys_that_are_made_and_withdrawn_at_once_are_all_kept_and_all_gone(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    first = create_key(keys, ("admin",))[1]
    made = [create_key(keys, ("runs:read",))[1] for _ in range(8)]
    # In processes of their own, as commands are; each begins when all are there.
    commands = [["create", *["-"] * 10]] * 4
    commands += [["revoke", *[key.id for key in made[half::2]]] for half in (0, 1)]
    with ExitStack() as stack:
        started = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", CHANGES, str(keys), *command],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for command in commands
        ]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.close()
        assert [process.wait(60) for process in started] == [0] * len(started)
    left = read_keys(keys)
    assert left[0] == first
    assert len(left) == 1 + 40
    assert not {key.id for key in left} & {key.id for key in made}


CHANGES = """
import sys
from pathlib import Path
from runstream.server.keys import create_key, revoke_key

path, what, *ids = sys.argv[1:]
print("ready", flush=True)
sys.stdin.read()
for id in ids:
    if what == "create":
        create_key(Path(path), ("runs:read",))
    else:
        revoke_key(Path(path), id)
"""
