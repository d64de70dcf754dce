"""POST events: what is stored, and what is refused whole."""

from __future__ import annotations

import gzip
import json
import secrets
from typing import Any

import pytest

from runstream import connect
from runstream.wire import encode_record
from server_process import Reply, ServerProcess

DEEP = "[" * 101 + "]" * 101
# No float can hold them; in each place where a number can be.
HUGE = [
    *("1e999", "-1E+999", "0.1e999", "-12.50E0999", "9" * 200 + "e200", "[1e0400]", "[ -1e999]"),
    *('{"a":1e999}', '{"a": 1e999}', '{"a":\t1e999}', "[1,1e999]", "[1, 1e999]", "[1,\t1e999]"),
    '["3e123 ab1e309-1e999", 1e999]',
    # Without an exponent, or with a short one.
    *("1" * 5000, "-" + "9" * 400 + ".0", "9" * 210 + "e99", '{"a":[1,' + "7" * 4301 + "]}"),
]


@pytest.fixture
def run(shared_server: ServerProcess) -> str:
    """A new run."""
    name = secrets.token_hex(8)
    assert shared_server.call("PUT", f"/v1/runs/{name}", {"workflow": "w"}).status == 201
    return name


def append(server: ServerProcess, run_id: str, *events: dict[str, Any], **more: Any) -> Reply:
    return server.call("POST", f"/v1/runs/{run_id}/events", {"events": events, **more})


def stored(server: ServerProcess, run_id: str) -> list[dict[str, Any]]:
    return list(map(json.loads, stored_lines(server, run_id)))


def stored_lines(server: ServerProcess, run_id: str) -> list[bytes]:
    """Past the server: what is in the file."""
    with connect(server.log_url) as streams:
        return [encode_record(record) for record in streams.subscribe(run_id, follow=False)]


def test_events_are_stored_in_order_with_all_that_they_say(
    shared_server: ServerProcess, run: str
) -> None:
    whole = {
        "kind": "token",
        "data": {"text": "é\u2028", "n": 1.5},
        "time": "2026-04-15T10:30:00.000001Z",
        "run_id": run,
        "topic": "t",
        "step": "s",
        "step_run_id": "s1",
        "attempt": 2,
        "correlation_id": "c",
        "index": -7,
    }
    answer = append(shared_server, run, whole, {"kind": "bare"})
    assert (answer.status, answer.json) == (200, {"first_seq": 1, "last_seq": 2, "duplicates": 0})
    first, second = stored(shared_server, run)
    assert first == {"seq": 1, **whole}
    assert (second["seq"], second["kind"], second["data"]) == (2, "bare", None)


def test_another_offset_of_a_time_is_the_same_moment(
    shared_server: ServerProcess, run: str
) -> None:
    append(shared_server, run, {"kind": "a", "time": "2026-04-15T12:30:00+02:00"})
    assert stored(shared_server, run)[0]["time"] == "2026-04-15T10:30:00.000000Z"


def test_a_repeat_is_harmless_and_a_hole_is_refused(shared_server: ServerProcess, run: str) -> None:
    def send(number: int) -> Reply:
        producer = {"id": "p", "epoch": 0, "number": number}
        return append(shared_server, run, {"kind": "a"}, {"kind": "b"}, producer=producer)

    assert send(1).json == {"first_seq": 1, "last_seq": 2, "duplicates": 0}
    assert send(1).json == {"first_seq": 1, "last_seq": 2, "duplicates": 2}
    assert [send(number).status for number in (0, 2, 4)] == [409, 409, 409]
    assert send(4).json["code"] == "number_gap"
    assert len(stored(shared_server, run)) == 2


def test_a_fenced_producer_is_told(shared_server: ServerProcess, run: str) -> None:
    for _ in range(2):
        shared_server.call("PUT", f"/v1/runs/{run}", {"producer": "p"})
    answer = append(
        shared_server, run, {"kind": "a"}, producer={"id": "p", "epoch": 1, "number": 1}
    )
    assert (answer.status, answer.json["code"]) == (409, "producer_fenced")


def test_a_stranger_cannot_end_a_run_that_a_process_holds(
    shared_server: ServerProcess, run: str
) -> None:
    claim = {"producer": "owner", "lease_s": 60}
    epoch = shared_server.call("PUT", f"/v1/runs/{run}", claim).json["epoch"]
    end = {"kind": "run.completed", "data": {"result": 1}}
    for producer in ({}, {"producer": {"id": "stranger", "epoch": 0, "number": 1}}):
        answer = append(shared_server, run, end, final=True, **producer)
        assert (answer.status, answer.json["code"]) == (409, "lease_held")
    # Subprocesses of the owner write tasks and steps; anyone may ask something of the run.
    for kind in ("task.started", "step.started", "run.signal", "run.cancel_requested"):
        assert append(shared_server, run, {"kind": kind}).status == 200
    owner = {"id": "owner", "epoch": epoch, "number": 1}
    assert append(shared_server, run, end, final=True, producer=owner).status == 200
    assert append(shared_server, run, {"kind": "a"}).json["code"] == "run_ended"


def test_a_run_that_nobody_holds_is_ended_by_whoever_writes_it(
    shared_server: ServerProcess, run: str
) -> None:
    assert append(shared_server, run, {"kind": "run.completed"}, final=True).status == 200


@pytest.mark.parametrize("kind", ["stream.gap", "stream.end", "stream.cursor", "stream.anything"])
def test_control_frames_cannot_be_forged(shared_server: ServerProcess, run: str, kind: str) -> None:
    assert append(shared_server, run, {"kind": kind}).status == 400
    assert (
        append(shared_server, run, {"kind": "stream.dropped", "data": {"count": 1}}).status == 200
    )


@pytest.mark.parametrize(
    "event",
    [
        {"kind": ""},
        {"kind": "two\nlines"},
        {"kind": "k" * 129},
        {"data": {}},
        {"kind": 1},
        {"kind": "a", "topic": ""},
        {"kind": "a", "step": "s" * 129},
        {"kind": "a", "step_run_id": "\u2028"},
        {"kind": "a", "correlation_id": ""},
        {"kind": "a", "run_id": "no run id"},
        {"kind": "a", "run_id": "of-another-stream"},
        {"kind": "a", "attempt": 0},
        {"kind": "a", "attempt": 2**63},
        {"kind": "a", "attempt": True},
        {"kind": "a", "index": 2**53},
        {"kind": "a", "index": 1.5},
        {"kind": "a", "time": "yesterday"},
        {"kind": "a", "time": "2026-04-15T10:30:00"},
        {"kind": "a", "colour": "red"},
    ],
    ids=str,
)
def test_an_envelope_that_cannot_be_is_refused_with_all_of_its_batch(
    shared_server: ServerProcess, run: str, event: dict[str, Any]
) -> None:
    answer = append(shared_server, run, {"kind": "good"}, event)
    assert (answer.status, answer.json["code"]) == (400, "invalid_input")
    assert stored(shared_server, run) == []


@pytest.mark.parametrize(
    "data",
    [DEEP, *HUGE, '"\\ud800"', '"\\ud800 and more"', "NaN", "1.", "[1,]"],
)
def test_a_payload_that_not_every_reader_could_read_is_refused(
    shared_server: ServerProcess, run: str, data: str
) -> None:
    body = f'{{"events":[{{"kind":"good"}},{{"kind":"a","data":{data}}}]}}'
    answer = shared_server.call("POST", f"/v1/runs/{run}/events", body.encode())
    assert (answer.status, answer.headers["content-type"]) == (400, "application/problem+json")
    assert stored(shared_server, run) == []


@pytest.mark.parametrize(
    "data",
    [
        "1e300",
        "1e-400",
        '"1e999"',
        '"ab1e999"',
        '"4f-1e9998"',
        "9" * 309,
        '"' + "9" * 5000 + '"',
        "0." + "3" * 5000,
        "[[[]]]",
        "[" * 100 + "]" * 100,
        '{"a":1,"a":2}',
        '"\\u00e9"',
    ],
)
def test_an_odd_payload_is_stored_byte_for_byte(
    shared_server: ServerProcess, run: str, data: str
) -> None:
    body = f'{{"events":[{{"kind":"a","data":{data}}}]}}'
    assert shared_server.call("POST", f"/v1/runs/{run}/events", body.encode()).status == 200
    (line,) = stored_lines(shared_server, run)
    assert line.endswith(f'"data":{data}}}'.encode())


def test_line_breaks_in_a_payload_are_left_out_and_nothing_else(
    shared_server: ServerProcess, run: str
) -> None:
    body = '{"events":[{"kind":"a","data":{\r\n "a" : [1 ,\n2.50],\t"b":"x\\n y"}}]}'
    assert shared_server.call("POST", f"/v1/runs/{run}/events", body.encode()).status == 200
    (line,) = stored_lines(shared_server, run)
    assert b'"data":{"a":[1,2.50],"b":"x\\n y"}}' in line


def test_a_record_has_its_own_limit(shared_server: ServerProcess, run: str) -> None:
    fits = {"kind": "a", "data": "x" * (1024 * 1024 - 2)}
    assert append(shared_server, run, fits, fits).status == 200
    answer = append(shared_server, run, {"kind": "a", "data": "x" * 1024 * 1024})
    assert (answer.status, answer.json["code"]) == (413, "payload_too_large")


def test_a_batch_has_at_most_a_thousand_events(shared_server: ServerProcess, run: str) -> None:
    events = [{"kind": "a"}] * 1001
    answer = append(shared_server, run, *events)
    assert (answer.status, answer.json["code"]) == (413, "request_too_large")
    assert append(shared_server, run, *events[1:]).json["last_seq"] == 1000
    assert append(shared_server, run).status == 400


@pytest.mark.parametrize(
    "producer",
    [
        {"id": "", "epoch": 0, "number": 1},
        {"id": "p", "epoch": -1, "number": 1},
        {"id": "p", "epoch": 0, "number": -(2**53)},
        {"id": "p", "epoch": 0, "number": 2**53},
        {"id": "p", "epoch": 2**63, "number": 1},
        {"id": "p", "epoch": 0},
        {"id": "p", "epoch": 0, "number": 1, "colour": "red"},
    ],
    ids=str,
)
def test_a_producer_that_cannot_be_is_refused(
    shared_server: ServerProcess, run: str, producer: dict[str, Any]
) -> None:
    assert append(shared_server, run, {"kind": "a"}, producer=producer).status == 400


def test_a_packed_body_is_unpacked(shared_server: ServerProcess, run: str) -> None:
    body = gzip.compress(json.dumps({"events": [{"kind": "a", "data": {"n": 1}}]}).encode())
    answer = shared_server.call(
        "POST", f"/v1/runs/{run}/events", body, headers={"content-encoding": "gzip"}
    )
    assert answer.status == 200
    assert stored(shared_server, run)[0]["data"] == {"n": 1}


def test_the_events_of_a_child_go_into_its_parents_stream(
    shared_server: ServerProcess, run: str
) -> None:
    child = f"{run}.child"
    shared_server.call("PUT", f"/v1/runs/{child}", {"workflow": "w", "parent_run_id": run})
    append(shared_server, run, {"kind": "a"}, {"kind": "b", "run_id": child})
    append(shared_server, child, {"kind": "c"})
    found = [(one["seq"], one["run_id"], one["kind"]) for one in stored(shared_server, run)]
    assert found == [(1, run, "a"), (2, child, "b"), (3, child, "c")]
