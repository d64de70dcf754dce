from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from runstream.cli import runstream as cli
from runstream.server.keys import KeyFile, read_keys
from server_process import running_server

# A command serves nobody but itself.
pytestmark = pytest.mark.allow_blocking


def token(*words: str, exit_code: int = 0, **variables: str) -> Result:
    result = CliRunner().invoke(cli, ["token", *words], env=variables)
    assert result.exit_code == exit_code, result.output
    return result


def create(keys: Path, *words: str) -> str:
    result = token("create-key", "--keys", str(keys), *words)
    assert len(result.stdout.splitlines()) == 1
    key = result.stdout.strip()
    assert key not in result.stderr
    return key


def test_a_key_is_printed_alone_and_works(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    key = create(
        keys, "--scope", "runs:read", "--scope", "runs:write", "--run", "a-*", "--expires", "1h"
    )
    grant = KeyFile(keys).identify(key)
    grant.require("runs:write", "a-1")
    assert not grant.allows("runs:read", "b")
    assert grant.expires is not None


def test_keys_are_listed_without_what_would_let_anyone_in(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    key = create(keys, "--scope", "runs:read", "--run", "a-*", "--name", "ci")
    create(keys, "--scope", "admin")
    (first, second) = read_keys(keys)
    table = token("list", "--keys", str(keys)).stdout
    assert table.split()[:6] == ["KEY", "NAME", "SCOPES", "RUNS", "CREATED", "EXPIRES"]
    assert f"{first.id}  ci" in table
    lines = [
        json.loads(line)
        for line in token("list", "--keys", str(keys), "--json").stdout.splitlines()
    ]
    assert [line["id"] for line in lines] == [first.id, second.id]
    assert lines[0]["runs"] == ["a-*"]
    for shown in (table, json.dumps(lines)):
        assert first.sha256 not in shown
        assert key.split("_", 2)[2] not in shown


def test_a_key_is_withdrawn_by_its_id(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    create(keys, "--scope", "runs:read")
    create(keys, "--scope", "admin")
    first, second = read_keys(keys)
    token("revoke", "--keys", str(keys), first.id)
    assert read_keys(keys) == [second]
    result = token("revoke", "--keys", str(keys), first.id, exit_code=2)
    assert f"no key '{first.id}'" in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["create-key"], "a key needs a scope"),
        (["create-key", "--scope", "fly"], "'fly' is not one of"),
        (["create-key", "--scope", "admin", "--expires", "soon"], "a time is like 90s"),
        (["create-key", "--scope", "admin", "--run", "a*b"], "not a run id"),
        (["list"], "cannot read"),
    ],
)
def test_mistakes_are_explained_and_nothing_is_written(
    tmp_path: Path, words: list[str], message: str
) -> None:
    result = token(*words, "--keys", str(tmp_path / "keys"), exit_code=2)
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_token_comes_from_a_server_that_only_listens_to_keys(
    tmp_path: Path, sqlite_url: str
) -> None:
    keys = tmp_path / "keys"
    reader = create(keys, "--scope", "runs:read", "--run", "mine")
    writer = create(keys, "--scope", "runs:write")
    with running_server(tmp_path, sqlite_url, "--keys", str(keys)) as server:
        result = token("mint", "mine", "--ttl", "10m", "--url", server.url, RUNSTREAM_TOKEN=reader)
        minted = result.stdout.strip()
        assert f"{server.url}/v1/runs/mine/events?access_token=" in result.stderr
        assert minted not in result.stderr
        bearer = {"authorization": f"Bearer {writer}"}
        opened = server.call("PUT", "/v1/runs/mine", {"workflow": "w"}, headers=bearer)
        assert opened.status == 201
        for path, status in (("mine", 200), ("other", 403)):
            answer = server.call("GET", f"/v1/runs/{path}?access_token={minted}")
            assert answer.status == status, answer
        refused = token("mint", "other", "--url", server.url, exit_code=4, RUNSTREAM_TOKEN=reader)
        assert "does not allow runs:read" in refused.stderr
        unknown = token("mint", "mine", "--url", server.url, exit_code=4)
        assert "give a token" in unknown.stderr


def test_a_run_token_needs_a_server(sqlite_url: str) -> None:
    assert "this needs a server" in token("mint", "r", "--url", sqlite_url, exit_code=2).stderr
    gone = token("mint", "r", "--url", "http://127.0.0.1:9", exit_code=4)
    assert "no answer from http://127.0.0.1:9" in gone.stderr
    assert "not a run id" in token("mint", "a/b", "--url", "http://h", exit_code=2).stderr
