from __future__ import annotations

from collections import deque
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from command_process import run_in_terminal
from runstream.cli import runstream as cli
from runstream.cli.figures import Figures, per_second, quantile
from runstream.cli.top import bars
from runstream.server.keys import create_key
from runstream.server.metrics import Metrics
from server_process import ServerProcess, running_server

# A command serves nobody but itself.
pytestmark = pytest.mark.allow_blocking


def top(url: str, *words: str, exit_code: int = 0, **variables: str) -> Result:
    words = ("top", "--url", url, "--interval", "0.1", "--count", "1", *words)
    result = CliRunner().invoke(cli, words, env=variables)
    assert result.exit_code == exit_code, result.output
    return result


def fill(server: ServerProcess, **headers: str) -> None:
    assert server.call("PUT", "/v1/runs/r", {"workflow": "w"}, headers=headers).status == 201
    events = {"events": [{"kind": "note"}] * 7}
    assert server.call("POST", "/v1/runs/r/events", events, headers=headers).status == 200


def test_in_a_pipe_each_look_is_one_line(tmp_path: Path, sqlite_url: str) -> None:
    with running_server(tmp_path, sqlite_url) as server:
        fill(server)
        (line,) = top(server.url).stdout.splitlines()
        words = dict(word.split("=") for word in line.split())
        assert words["subscribers"] == "0"
        assert list(words) == [
            "records_in_per_s",
            "records_out_per_s",
            "subscribers",
            "lag_records_max",
            "open_runs",
            "dropped",
        ]
        shown = run_in_terminal(
            server.url, "top", "--url", server.url, "--interval", "0.1", "--count", "2"
        )
        assert shown.returncode == 0
        for text in ("records/s", "subscribers", "WORKFLOW", "running", "% of a core"):
            assert text in shown.text


def test_a_token_for_figures_alone_sees_no_runs(tmp_path: Path, sqlite_url: str) -> None:
    keys = tmp_path / "keys"
    scraper, _ = create_key(keys, ("metrics",))
    reader, _ = create_key(keys, ("runs:read",))
    admin, _ = create_key(keys, ("admin",))
    with running_server(tmp_path, sqlite_url, "--keys", str(keys)) as server:
        fill(server, authorization=f"Bearer {admin}")
        shown = run_in_terminal(
            server.url,
            *("top", "--url", server.url, "--interval", "0.1", "--count", "1"),
            RUNSTREAM_TOKEN=scraper,
        )
        assert "does not allow runs:read" in shown.text
        assert "WORKFLOW" not in shown.text
        assert (
            "does not allow metrics" in top(server.url, exit_code=4, RUNSTREAM_TOKEN=reader).stderr
        )
        assert "give a token" in top(server.url, exit_code=4).stderr


def test_a_log_without_a_server_has_no_figures(sqlite_url: str) -> None:
    assert "this needs a server" in top(sqlite_url, exit_code=2).stderr
    assert "no answer from" in top("http://127.0.0.1:9", exit_code=4).stderr


# --- figures -----------------------------------------------------------------------------------------


def test_figures_are_read_from_what_a_server_exposes() -> None:
    metrics = Metrics()
    metrics.appended(10, 1500, 0.002)
    metrics.cut('a "quoted" reason')
    metrics.cut("stalled")
    metrics.opened({"running": 3, "waiting": 2})
    figures = Figures(metrics.expose().decode(), 0.0)
    assert "runstream_records_in_total" in figures
    assert "runstream_nothing" not in figures
    assert figures.total("runstream_records_in_total") == 10
    assert figures.total("runstream_nothing") == 0
    assert figures.by("runstream_open_runs", "status") == {"running": 3, "waiting": 2}
    assert figures.total("runstream_open_runs", status="running") == 3
    assert sum(figures.by("runstream_subscribers_cut_total", "reason").values()) == 2


def test_rates_and_quantiles_are_of_what_came_between_two_looks() -> None:
    metrics = Metrics()
    metrics.appended(100, 0, 9.0)
    before = Figures(metrics.expose().decode(), 10.0)
    for seconds in (0.0003, 0.0003, 0.0003, 0.2):
        metrics.appended(5, 0, seconds)
    now = Figures(metrics.expose().decode(), 12.0)
    assert per_second("runstream_records_in_total", before, now) == 10
    assert quantile("runstream_append_seconds", 0.5, before, now) == pytest.approx(0.0005 * 2 / 3)
    assert quantile("runstream_append_seconds", 1.0, before, now) == 0.25
    assert quantile("runstream_append_seconds", 0.5, now, now) is None
    assert quantile("runstream_nothing", 0.5, before, now) is None


def test_a_server_that_was_restarted_counts_from_nothing() -> None:
    old, new = Metrics(), Metrics()
    old.appended(1000, 0, 0.1)
    new.appended(20, 0, 0.1)
    before, now = Figures(old.expose().decode(), 0.0), Figures(new.expose().decode(), 2.0)
    assert per_second("runstream_records_in_total", before, now) == 10
    assert quantile("runstream_append_seconds", 0.5, before, now) is None


def test_a_graph_is_as_high_as_its_highest_value() -> None:
    assert bars(deque([0.0, 50.0, 100.0])) == "▁▅█"
    assert bars(deque([0.0, 0.0])) == "▁▁"
    assert bars(deque()) == ""
