from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from asgi_call import call
from runstream.logs.memory import MemoryLog
from runstream.server.app import create_app
from runstream.server.metrics import Lag, Metrics

ROOT = Path(__file__).parents[2]


def figures(metrics: Metrics) -> dict[str, float]:
    text = metrics.expose().decode()
    return {
        sample.name + (str(sorted(sample.labels.items())) if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_what_passes_is_counted() -> None:
    metrics = Metrics()
    metrics.appended(64, 9600, 0.00025)
    metrics.appended(1, 150, 0.125)
    metrics.delivered(65, 9750)
    metrics.dropped(7)
    metrics.trimmed(5)
    metrics.removed(2)
    metrics.subscribed()
    metrics.subscribed()
    metrics.unsubscribed()
    metrics.cut("stalled")
    metrics.gap("trimmed")
    metrics.expired("lost")
    metrics.opened({"running": 3, "waiting": 1})
    metrics.watch_lag(lambda: Lag(max=40, total=50))
    found = figures(metrics)
    assert found["runstream_records_in_total"] == 65
    assert found["runstream_bytes_in_total"] == 9750
    assert found["runstream_records_out_total"] == 65
    assert found["runstream_bytes_out_total"] == 9750
    assert found["runstream_records_dropped_total"] == 7
    assert found["runstream_records_trimmed_total"] == 5
    assert found["runstream_runs_removed_total"] == 2
    assert found["runstream_subscribers"] == 1
    assert found["runstream_subscriptions_total"] == 2
    assert found["runstream_subscribers_cut_total[('reason', 'stalled')]"] == 1
    assert found["runstream_gaps_total[('reason', 'trimmed')]"] == 1
    assert found["runstream_leases_expired_total[('status', 'lost')]"] == 1
    assert found["runstream_open_runs[('status', 'running')]"] == 3
    assert found["runstream_subscriber_lag_records_max"] == 40
    assert found["runstream_subscriber_lag_records_sum"] == 50
    assert found["runstream_append_seconds_count"] == 2
    assert found["runstream_append_seconds_sum"] == 0.12525
    assert found["runstream_append_seconds_bucket[('le', '0.0005')]"] == 1
    assert found["runstream_append_seconds_bucket[('le', '0.1')]"] == 1
    assert found["runstream_append_seconds_bucket[('le', '0.25')]"] == 2
    assert found["runstream_append_seconds_bucket[('le', '+Inf')]"] == 2


def test_requests_are_counted_by_pattern_and_strangers_cannot_add_labels() -> None:
    metrics = Metrics()
    metrics.answered("/v1/runs/{run_id}", "GET", 200, 0.01)
    for number in range(100):
        metrics.answered("none", f"X{number}", 404, 0.01)
    found = figures(metrics)
    assert (
        found[
            "runstream_requests_total"
            "[('method', 'GET'), ('route', '/v1/runs/{run_id}'), ('status', '200')]"
        ]
        == 1
    )
    requests = [name for name in found if name.startswith("runstream_requests_total")]
    assert len(requests) == 2
    assert found["runstream_request_seconds_count[('route', 'none')]"] == 100


async def test_a_server_counts_what_is_stored_once_and_what_producers_dropped() -> None:
    metrics = Metrics()
    app = create_app(MemoryLog(), metrics=metrics)
    json = {"content-type": "application/json", "accept": "text/event-stream"}
    await call(app, "PUT", "/v1/runs/r", json, b'{"workflow": "w"}')
    batch = (
        b'{"producer": {"id": "p", "epoch": 0, "number": 1}, "events": ['
        b'{"kind": "stream.dropped", "data": {"count": 41, "reason": "queue_full"}},'
        b'{"kind": "stream.dropped", "data": "not ours"},'
        b'{"kind": "stream.dropped", "data": {"count": -5}},'
        b'{"kind": "note", "data": {"count": 7}}]}'
    )
    for _ in range(2):
        assert (await call(app, "POST", "/v1/runs/r/events", json, batch)).status == 200
    end = b'{"events": [{"kind": "run.completed"}], "final": true}'
    assert (await call(app, "POST", "/v1/runs/r/events", json, end)).status == 200
    assert (await call(app, "GET", "/v1/runs/r/events", json)).status == 200
    found = figures(metrics)
    assert found["runstream_records_in_total"] == 5
    assert found["runstream_records_dropped_total"] == 41
    assert found["runstream_records_out_total"] == 5
    assert found["runstream_bytes_out_total"] > 5 * 100
    assert found["runstream_subscriptions_total"] == 1
    assert found["runstream_subscribers"] == 0
    await app.stop()


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = Metrics(), Metrics()
    one.subscribed()
    assert figures(one)["runstream_subscribers"] == 1
    assert figures(other)["runstream_subscribers"] == 0


def test_every_figure_is_documented_with_what_it_counts() -> None:
    metrics = Metrics()
    metrics.answered("none", "GET", 404, 0.01)
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(runstream_\w+)", page, re.MULTILINE))
    exposed = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in text_string_to_metric_families(metrics.expose().decode())
        if family.name.startswith("runstream_")
    }
    assert documented == exposed
