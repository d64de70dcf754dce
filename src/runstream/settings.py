"""The settings of this process: the only reader of the environment.

Every value has a default that works with no configuration at all. They are read when they are needed,
so that a test or a notebook may change the environment before its first run.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Literal
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import msgspec
import platformdirs

from .errors import InvalidInput
from .events import check_name
from .payload import RECORD_SIZE_BYTES_MAX
from .record import check_run_id
from .retention import AMOUNT_MAX, NO_LIMITS, Retention

Overflow = Literal["block", "drop_oldest", "raise"]

# Records that wait in a process to be stored. At 1 µs a publish this is a few milliseconds of burst.
QUEUE_RECORDS_MAX = 4096
# Records in one request to a remote log, at most: what waits goes together. A server takes no more.
PUBLISH_BATCH_SIZE = 1000
PUBLISH_BATCH_SIZE_MAX = 1000
# Finished runs are removed after this time (seconds): generous, but not for ever.
RETENTION_S = 30 * 24 * 3600.0
# A run whose owner has not renewed its lease for this time is taken for dead.
LEASE_S = 15.0
# Leaving a run waits this long for its last record to be stored, before it fails.
END_TIMEOUT_S = 30.0
# An event loop that does not answer for this time is reported: by then everyone has noticed.
BLOCKED_S = 1.0


class ChildRun(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a subprocess must know to publish into its parent's run (`RUNSTREAM_RUN`, as JSON)."""

    url: str
    run_id: str
    root_run_id: str
    step: str | None = None
    step_run_id: str | None = None
    attempt: int | None = None

    def __repr__(self) -> str:
        return f"<ChildRun {self.run_id}>"  # the URL may hold a password


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One reading of the environment; docs/logs.md lists the variables."""

    url: str
    token: str | None = None
    queue_records_max: int = QUEUE_RECORDS_MAX
    record_size_bytes_max: int = RECORD_SIZE_BYTES_MAX
    publish_batch_size: int = PUBLISH_BATCH_SIZE
    overflow: Overflow | None = None
    retention_s: float = RETENTION_S
    # Of the records of single runs.
    retention: Retention = NO_LIMITS
    lease_s: float = LEASE_S
    end_timeout_s: float = END_TIMEOUT_S
    blocked_s: float = BLOCKED_S
    run: ChildRun | None = None

    def __repr__(self) -> str:
        return "<Settings>"  # the URL may hold a password, and the token is one


def default_url() -> str:
    """The embedded log in the user's data directory, so that a second terminal sees a run at once."""
    return f"sqlite:{platformdirs.user_data_path('runstream') / 'events.db'}"


def read_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """Read the `RUNSTREAM_…` variables.

    Raises:
        InvalidInput: a variable does not have the form that its name asks for.
    """
    env = os.environ if environ is None else environ
    return Settings(
        url=env.get("RUNSTREAM_URL") or default_url(),
        token=env.get("RUNSTREAM_TOKEN") or None,
        queue_records_max=_whole(env, "RUNSTREAM_QUEUE_RECORDS", QUEUE_RECORDS_MAX, 1, 10_000_000),
        record_size_bytes_max=_whole(
            env, "RUNSTREAM_RECORD_SIZE_BYTES", RECORD_SIZE_BYTES_MAX, 1024, 64 * 1024 * 1024
        ),
        publish_batch_size=_whole(
            env, "RUNSTREAM_PUBLISH_BATCH_SIZE", PUBLISH_BATCH_SIZE, 1, PUBLISH_BATCH_SIZE_MAX
        ),
        overflow=_overflow(env),
        retention_s=_seconds(env, "RUNSTREAM_RETENTION_S", RETENTION_S),
        retention=Retention(
            records=_limit(env, "RUNSTREAM_RETENTION_RECORDS"),
            size_bytes=_limit(env, "RUNSTREAM_RETENTION_BYTES"),
            age=_seconds(env, "RUNSTREAM_RETENTION_AGE_S", 0.0) or None,
        ),
        lease_s=_seconds(env, "RUNSTREAM_LEASE_S", LEASE_S),
        end_timeout_s=_seconds(env, "RUNSTREAM_END_TIMEOUT_S", END_TIMEOUT_S),
        blocked_s=_seconds(env, "RUNSTREAM_BLOCKED_S", BLOCKED_S),
        run=_child_run(env),
    )


def environment_with(run: ChildRun | None) -> dict[str, str]:
    """This process's environment plus `RUNSTREAM_RUN`, for a subprocess that publishes into the run."""
    if run is None:
        return dict(os.environ)
    return {**os.environ, "RUNSTREAM_RUN": msgspec.json.encode(run).decode()}


@contextmanager
def quiet_rust() -> Generator[None]:
    """Libraries written in Rust that are loaded in the block keep their log to themselves, unless the
    user has set `RUST_LOG`.
    """
    if "RUST_LOG" in os.environ:
        yield
        return
    os.environ["RUST_LOG"] = "off"
    try:
        yield
    finally:
        os.environ.pop("RUST_LOG", None)


def set_rust_threads(count: int) -> None:
    """Libraries written in Rust that have not begun to calculate in this process do so in `count` threads."""
    os.environ["RAYON_NUM_THREADS"] = str(count)


def proxy_for(url: str) -> str | None:
    """The proxy that this machine's usual variables (or its system settings) name for a URL."""
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)


def _whole(env: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = env.get(name)
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise InvalidInput(f"{name} must be a whole number from {least} to {most}, not {text!r}")
    return int(text)


def _limit(env: Mapping[str, str], name: str) -> int | None:
    return _whole(env, name, 0, 1, AMOUNT_MAX) or None


def _seconds(env: Mapping[str, str], name: str, default: float) -> float:
    text = env.get(name)
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise InvalidInput(f"{name} must be a number of seconds above 0, not {text!r}")
    return seconds


def _overflow(env: Mapping[str, str]) -> Overflow | None:
    text = env.get("RUNSTREAM_OVERFLOW")
    match text:
        case None | "":
            return None
        case "block" | "drop_oldest" | "raise":
            return text
        case _:
            raise InvalidInput(
                f"RUNSTREAM_OVERFLOW must be block, drop_oldest or raise, not {text!r}"
            )


def _child_run(env: Mapping[str, str]) -> ChildRun | None:
    text = env.get("RUNSTREAM_RUN")
    if not text:
        return None
    try:
        run = msgspec.json.decode(text, type=ChildRun)
        check_run_id(run.run_id)
        check_run_id(run.root_run_id)
        for name, what in ((run.step, "step"), (run.step_run_id, "step_run_id")):
            if name is not None:
                check_name(name, what)
        return run
    except (msgspec.MsgspecError, UnicodeError, InvalidInput) as error:
        raise InvalidInput(f"RUNSTREAM_RUN does not name a run: {error}") from error
