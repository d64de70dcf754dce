"""Bearer keys: 256 random bits each, of which the keys file holds only a hash.

A key looks like `rsk_<id>_<secret>`. The file has one key a line, as JSON; a key whose line is removed is
withdrawn. A plain SHA-256 is right here: there is nothing to guess in 256 random bits, so a slow hash
would only slow down every request.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import secrets
import stat
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Annotated, Final

import msgspec

from ..errors import InvalidInput, Unauthorized
from ..events import check_name
from .access import PERMISSIONS, Permission
from .grant import Grant, RunPatterns
from .watched_file import WatchedFile

if sys.platform != "win32":  # there one command at a time
    import fcntl

PREFIX: Final = "rsk_"
SECRET_BYTES: Final = 32
# Shown in lists and logs; long enough that two keys of one file never share it.
ID_BYTES: Final = 6

_REFUSED: Final = "the key is not one of this server, or has been withdrawn"
# Compared with when there is no such key, so that it takes as long as when there is one.
_NO_HASH: Final = "0" * 64


class Key(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line of the keys file. Times are seconds since 1970; `runs` are patterns, None for all."""

    id: str
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    scopes: tuple[Permission, ...]
    name: str = ""
    runs: tuple[str, ...] | None = None
    created: float = 0.0
    expires: float | None = None


class KeyFile:
    """The keys of one file, as they are now."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path, _index)

    def identify(self, key: str) -> Grant:
        """Raises Unauthorized: it is unknown, withdrawn or expired."""
        id, _, secret = key.removeprefix(PREFIX).partition("_")
        found = self._file.current().get(id)
        expected = _NO_HASH if found is None else found.sha256
        if not hmac.compare_digest(_hash(secret), expected) or found is None:
            raise Unauthorized(_REFUSED)
        if found.expires is not None and time.time() >= found.expires:
            raise Unauthorized("the key has expired")
        return Grant(
            f"key:{id}",
            frozenset(found.scopes),
            None if found.runs is None else RunPatterns.parse(found.runs),
            found.expires,
            # Streams go on while the file cannot be read: only new callers are held up.
            lambda: self._file.latest().get(id) == found,
        )

    def check(self) -> None:
        """Raises LogUnavailable: the file cannot be read now."""
        self._file.current()

    def knows(self, name: str) -> bool:
        """Whether the key that a grant is named after has not been withdrawn."""
        return name.removeprefix("key:") in self._file.latest()


def create_key(
    path: Path,
    scopes: tuple[Permission, ...],
    *,
    name: str = "",
    runs: tuple[str, ...] | None = None,
    expires: float | None = None,
) -> tuple[str, Key]:
    """Draw a key and add it to the file, which is made if it is not there. The key itself is kept
    nowhere: who loses it creates another one.

    Raises InvalidInput: no scope, an impossible name or pattern, or the file cannot be written.
    """
    if not scopes:
        raise InvalidInput(f"a key needs a scope, one or more of {', '.join(PERMISSIONS)}")
    RunPatterns.parse(runs or ())
    if name:
        check_name(name, "name")
    secret = secrets.token_urlsafe(SECRET_BYTES)
    key = Key(
        secrets.token_hex(ID_BYTES),
        _hash(secret),
        scopes,
        name,
        runs,
        float(int(time.time())),
        expires,
    )
    with _changing(path):
        keys = [*read_keys(path), key] if path.exists() else [key]
        _write_keys(path, keys)
    return f"{PREFIX}{key.id}_{secret}", key


def read_keys(path: Path) -> list[Key]:
    """Raises InvalidInput: the file cannot be read, or holds something else."""
    try:
        return list(_index(path.read_bytes()).values())
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}") from None
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from None


def revoke_key(path: Path, id: str) -> None:
    """Withdraw a key. Raises InvalidInput: there is none of that id, or the file cannot be written."""
    with _changing(path):
        keys = read_keys(path)
        left = [key for key in keys if key.id != id]
        if len(left) == len(keys):
            raise InvalidInput(f"no key {id!r} in {path}")
        _write_keys(path, left)


def _hash(secret: str) -> str:
    # `surrogateescape`: a header may hold any bytes, and a wrong key is no error of the server.
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def _index(text: bytes) -> dict[str, Key]:
    found: dict[str, Key] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            key = msgspec.json.decode(line, type=Key)
            RunPatterns.parse(key.runs or ())
        except (msgspec.MsgspecError, UnicodeError, InvalidInput) as error:
            raise InvalidInput(f"line {number} is not a key: {error}") from None
        if key.id in found:
            raise InvalidInput(f"line {number} has the id of an earlier key")
        found[key.id] = key
    return found


@contextlib.contextmanager
def _changing(path: Path) -> Generator[None]:
    """One at a time reads the file, changes it and writes it: who comes meanwhile waits.

    By a lock on a file beside it, because the file itself is replaced. Raises InvalidInput.
    """
    path = path.resolve()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from None
    try:
        if path.exists():
            _take_over(lock, path.stat())
        if sys.platform != "win32":
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)  # which gives the lock up


def _write_keys(path: Path, keys: list[Key]) -> None:
    # Replaced as a whole, so that a server that reads meanwhile sees the old keys or the new ones.
    path = path.resolve()
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as new:
            new.write(b"".join(msgspec.json.encode(key) + b"\n" for key in keys))
            if path.exists():
                _take_over(new.fileno(), path.stat())
            new.flush()
            os.fsync(new.fileno())
        Path(new.name).replace(path)
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error.strerror}") from None


def _take_over(file: int, before: os.stat_result) -> None:
    """Let those read the new file who could read the old one: the server may be another user."""
    with contextlib.suppress(PermissionError):
        os.fchown(file, before.st_uid, before.st_gid)
        os.fchmod(file, stat.S_IMODE(before.st_mode))
