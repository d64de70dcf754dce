"""The command line shows no password, wherever it names a log."""

from __future__ import annotations

from pathlib import Path

import pytest

from command_process import run_command
from runstream.cli.terminal import command_line, shown_url
from services.engine import free_port
from services.redis import running_redis


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:events.db?durability=process", "sqlite:events.db?durability=process"),
        ("redis://127.0.0.1:6379/0", "redis://127.0.0.1:6379/0"),
        ("redis://:s3cret@h:6379/0?prefix=p", "redis://***@h:6379/0?prefix=p"),
        ("postgresql://me:s3c@ret@h/db", "postgresql://***@h/db"),
        (
            "postgresql://h/db?a=b&password=s3cret&c=d",
            "postgresql://h/db?a=b&password=***&c=d",
        ),
        ("sqlite:folder@home/events.db", "sqlite:folder@home/events.db"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url: str, shown: str) -> None:
    assert shown_url(url) == shown
    assert "s3c" not in command_line("tail", "r", url=url)


def test_commands_on_a_log_with_a_password_show_none(tmp_path: Path) -> None:
    with running_redis(tmp_path, password="s3cret") as server:
        for words in (["ls"], ["tail", "r"], ["demo", "--once", "--speed", "50"]):
            done = run_command(server.url, *words)
            assert "s3cret" not in done.stdout + done.stderr
            assert str(server.port) in done.stdout + done.stderr
    for words in (["ls"], ["check", f"redis://:s3cret@127.0.0.1:{free_port()}/0"]):
        done = run_command(server.url, *words)
        assert done.returncode != 0
        assert "s3cret" not in done.stdout + done.stderr
