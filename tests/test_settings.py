"""Settings: what the environment says, or an error that names the variable."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runstream.errors import InvalidInput
from runstream.settings import (
    ChildRun,
    Settings,
    environment_with,
    proxy_for,
    quiet_rust,
    read_settings,
)

CHILD = ChildRun("sqlite:/tmp/x.db", "run-1", "root-1", "train", "s1", 2)


def test_with_no_environment_everything_has_a_default() -> None:
    settings = read_settings({})
    assert settings == Settings(url=settings.url)
    assert settings.url.startswith("sqlite:")
    assert Path(settings.url.removeprefix("sqlite:")).is_absolute()
    assert settings.run is None


def test_each_variable_is_read() -> None:
    settings = read_settings(
        {
            "RUNSTREAM_URL": "memory:",
            "RUNSTREAM_TOKEN": "sesame",
            "RUNSTREAM_QUEUE_RECORDS": "10",
            "RUNSTREAM_RECORD_SIZE_BYTES": "2048",
            "RUNSTREAM_PUBLISH_BATCH_SIZE": "7",
            "RUNSTREAM_OVERFLOW": "raise",
            "RUNSTREAM_RETENTION_S": "60",
            "RUNSTREAM_LEASE_S": "1.5",
            "RUNSTREAM_END_TIMEOUT_S": "0.5",
        }
    )
    assert settings == Settings(
        url="memory:",
        token="sesame",
        queue_records_max=10,
        record_size_bytes_max=2048,
        publish_batch_size=7,
        overflow="raise",
        retention_s=60.0,
        lease_s=1.5,
        end_timeout_s=0.5,
    )


def test_an_empty_variable_is_as_good_as_none() -> None:
    names = ("URL", "QUEUE_RECORDS", "OVERFLOW", "LEASE_S", "RUN")
    empty = {f"RUNSTREAM_{name}": "" for name in names}
    assert read_settings(empty) == read_settings({})


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("RUNSTREAM_QUEUE_RECORDS", "0"), ("RUNSTREAM_QUEUE_RECORDS", "many"),
        ("RUNSTREAM_QUEUE_RECORDS", "\u0663"),
        ("RUNSTREAM_RECORD_SIZE_BYTES", "1"), ("RUNSTREAM_PUBLISH_BATCH_SIZE", "1001"),
        ("RUNSTREAM_OVERFLOW", "explode"), ("RUNSTREAM_RETENTION_S", "0"), ("RUNSTREAM_LEASE_S", "-1"),
        ("RUNSTREAM_LEASE_S", "nan"), ("RUNSTREAM_LEASE_S", "inf"), ("RUNSTREAM_END_TIMEOUT_S", "soon"),
        ("RUNSTREAM_RUN", "no json"), ("RUNSTREAM_RUN", "{}"), ("RUNSTREAM_RUN", '{"url":1}'),
        ("RUNSTREAM_RUN", '{"url":"memory:","run_id":"../x","root_run_id":"x"}'),
        ("RUNSTREAM_RUN", '{"url":"memory:","run_id":"x","root_run_id":"x","step":"a\\nb"}'),
    ],
)  # fmt: skip
def test_a_variable_of_the_wrong_form_is_named(name: str, text: str) -> None:
    with pytest.raises(InvalidInput, match=name):
        read_settings({name: text})


def test_the_environment_for_a_subprocess_names_the_run_and_keeps_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SOMETHING", "else")
    environment = environment_with(CHILD)
    assert environment["SOMETHING"] == "else"
    assert read_settings(environment).run == CHILD


def test_outside_any_run_the_environment_is_passed_on_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inherited = environment_with(CHILD)["RUNSTREAM_RUN"]
    monkeypatch.setenv("RUNSTREAM_RUN", inherited)
    assert environment_with(None)["RUNSTREAM_RUN"] == inherited


def test_rust_is_quiet_in_the_block_unless_the_user_wants_to_hear_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RUST_LOG", raising=False)
    with quiet_rust():
        assert os.environ["RUST_LOG"] == "off"
    assert "RUST_LOG" not in os.environ
    monkeypatch.setenv("RUST_LOG", "debug")
    with quiet_rust():
        assert os.environ["RUST_LOG"] == "debug"
    assert os.environ["RUST_LOG"] == "debug"


def test_what_may_be_secret_in_the_settings_is_not_shown() -> None:
    run = ChildRun("postgresql://me:s3cret@host/db", "run-1", "run-1")
    environment = environment_with(run) | {
        "RUNSTREAM_URL": run.url,
        "RUNSTREAM_TOKEN": "s3cret",
    }
    settings = read_settings(environment)
    assert settings.url == run.url
    assert settings.run == run
    assert "s3cret" not in f"{settings!r} {settings} {run!r} {settings.run}"


def test_a_proxy_is_the_one_that_the_usual_variables_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    assert proxy_for("https://runs.example.com") is None
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example.com")
    assert proxy_for("https://runs.example.com/path") == "http://proxy.example.com:3128"
    assert proxy_for("http://runs.example.com") is None
    assert proxy_for("https://runs.inside.example.com") is None
