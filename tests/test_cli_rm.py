from __future__ import annotations

from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from runstream import connect, process, publish, start_run
from runstream.cli import runstream as cli
from server_process import ServerProcess

# A command's event loop serves nobody but the command.
pytestmark = pytest.mark.allow_blocking


@pytest.fixture(autouse=True)
def closed_publishers() -> Iterator[None]:
    yield
    process.close_publishers()


def rm(url: str, *run_ids: str) -> Result:
    return CliRunner().invoke(cli, ["rm", "--url", url, *run_ids])


def run_ids(url: str) -> set[str]:
    with connect(url) as streams:
        return {info.run_id for info in streams.list_runs()}


def fill(url: str) -> None:
    for run_id in ("a", "b", "c"):
        with start_run("w", run_id=run_id, url=url), start_run("part", run_id=f"{run_id}.part"):
            publish({"n": 1})


def test_runs_that_have_ended_go_with_their_children(sqlite_url: str) -> None:
    fill(sqlite_url)
    result = rm(sqlite_url, "a", "c")
    assert (result.exit_code, result.output) == (0, "")
    assert run_ids(sqlite_url) == {"b", "b.part"}


def test_they_are_removed_through_a_server_too(server: ServerProcess) -> None:
    fill(server.url)
    assert rm(server.url, "a", "b").exit_code == 0
    assert run_ids(server.log_url) == {"c", "c.part"}


def test_what_cannot_be_removed_is_told_and_the_others_go_all_the_same(sqlite_url: str) -> None:
    fill(sqlite_url)
    with start_run("w", run_id="running", url=sqlite_url):
        result = rm(sqlite_url, "running", "a.part", "nobody", "b")
        assert result.exit_code == 3
        told = result.stderr.splitlines()
        assert ["running" in told[0], "a.part" in told[1], "nobody" in told[2]] == [True] * 3
        assert run_ids(sqlite_url) == {"running", "a", "a.part", "c", "c.part"}
        assert rm(sqlite_url, "running").exit_code == 2
