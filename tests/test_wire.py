from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream import Record, connect, process, publish, start_run
from runstream.errors import InvalidInput
from runstream.log import Lease, RunInfo
from runstream.record import GAP, Draft, Origin, make_draft
from runstream.wire import Envelope, draft_of, encode_record, encode_run, rfc3339, time_us

ORIGIN = Origin("g1", "nightly", None, "r1")


@pytest.fixture(autouse=True)
def closed_publishers() -> Iterator[None]:
    yield
    process.close_publishers()


def record_of(draft: Draft, seq: int = 7) -> Record:
    return Record(seq, draft, ORIGIN)


def test_an_envelope_has_all_fields_in_the_order_of_the_contract() -> None:
    draft = Draft(
        1_776_249_000_000_001,
        "r1",
        "token",
        msgspec.Raw(b'{"text":"Hi"}'),
        "answers",
        "write",
        "s-1",
        2,
        "gen-1",
        3,
    )
    assert encode_record(record_of(draft)) == (
        b'{"seq":7,"time":"2026-04-15T10:30:00.000001Z","run_id":"r1","kind":"token",'
        b'"data":{"text":"Hi"},"topic":"answers","step":"write","step_run_id":"s-1","attempt":2,'
        b'"correlation_id":"gen-1","index":3}'
    )


def test_fields_that_are_not_set_are_left_out() -> None:
    envelope = json.loads(encode_record(record_of(make_draft("r1", "event", {}))))
    assert set(envelope) == {"seq", "time", "run_id", "kind", "data"}


def test_an_index_of_0_and_an_attempt_of_0_are_values() -> None:
    draft = msgspec.structs.replace(make_draft("r1", "event", {}, index=0), attempt=0)
    envelope = json.loads(encode_record(record_of(draft)))
    assert (envelope["index"], envelope["attempt"]) == (0, 0)


def test_a_gap_has_no_seq() -> None:
    gap = make_draft("r1", GAP, {"reason": "trimmed", "from_seq": 1, "to_seq": 4})
    envelope = json.loads(encode_record(Record(0, gap, ORIGIN, resume_seq=4)))
    assert "seq" not in envelope
    assert envelope["kind"] == "stream.gap"
    assert envelope["data"]["to_seq"] == 4


def test_the_payload_is_copied_byte_for_byte() -> None:
    # Any decoding and encoding would change these: spaces, a large float, an escaped slash, a key twice.
    raw = b'{ "a": 1e400, "b":"\\/", "a": 1.0}'
    draft = msgspec.structs.replace(make_draft("r1", "event", {}), data=msgspec.Raw(raw))
    assert b'"data":' + raw + b"}" in encode_record(record_of(draft))


async def test_what_was_published_with_line_breaks_is_one_line(sqlite_url: str) -> None:
    async with start_run("w", run_id="r1", url=sqlite_url):
        publish(b'{"a":\r\n [1,\n2]}')
        publish({"text": "two\nlines\u2028three"})
    async with connect(sqlite_url) as streams:
        lines = [encode_record(record) async for record in streams.subscribe("r1")]
    assert not any(b"\n" in line or b"\r" in line for line in lines)
    assert json.loads(lines[1])["data"] == {"a": [1, 2]}
    assert json.loads(lines[2])["data"] == {"text": "two\nlines\u2028three"}


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_reads_back_as_the_same_instant(moment: datetime) -> None:
    us = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    text = rfc3339(us)
    assert len(text) == len("2026-04-15T10:30:00.000000Z")
    assert datetime.fromisoformat(text) == moment


@given(st.datetimes(timezones=st.just(UTC)))
def test_a_time_written_is_read_back_to_the_microsecond(moment: datetime) -> None:
    us = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert time_us(rfc3339(us)) == us


@pytest.mark.parametrize(
    "text",
    [
        "2026-04-15T10:30:00Z",
        "2026-04-15t10:30:00.0z",
        "2026-04-15T12:30:00.000+02:00",
        "2026-04-15T10:30:00.0000009Z",
    ],
)
def test_every_form_of_rfc_3339_is_read(text: str) -> None:
    assert time_us(text) == 1_776_249_000_000_000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-04-15",
        "2026-04-15 10:30:00Z",
        "2026-04-15T10:30:00",
        "2026-W16-3T10:30:00Z",
        "20260415T103000Z",
        "2026-04-15T10:30:00.+00001Z",
        "2026-04-15T10:30:00.12345٣Z",
        "2026-02-30T10:30:00Z",
    ],
)
def test_what_is_no_rfc_3339_time_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="RFC 3339"):
        time_us(text)


@pytest.mark.parametrize("extra", [{}, {"topic": "t", "step": "s", "attempt": 0, "index": -1}])
def test_a_draft_comes_back_from_its_envelope(extra: dict[str, str | int]) -> None:
    draft = msgspec.structs.replace(make_draft("r1", "event", b'{"a": [1.0]}'), **extra)
    envelope = msgspec.json.decode(encode_record(record_of(draft)), type=Envelope)
    assert (envelope.seq, draft_of(envelope)) == (7, draft)


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (10**30, "9999-12-31T23:59:59.999999Z"),
        (-(10**30), "0001-01-01T00:00:00.000000Z"),
    ],
)
def test_no_clock_can_break_the_encoding(us: int, text: str) -> None:
    assert rfc3339(us) == text


def test_a_run_is_told_without_its_lease() -> None:
    info = RunInfo(
        run_id="c1",
        root_run_id="r1",
        parent_run_id="r1",
        workflow="nightly",
        status="completed",
        generation="g1",
        first_seq=1,
        last_seq=12,
        created=0,
        ended=1_000_000,
        lease=Lease("owner", 1, 2, 15.0, 0.0),
    )
    assert json.loads(encode_run(info)) == {
        "run_id": "c1",
        "workflow": "nightly",
        "status": "completed",
        "root_run_id": "r1",
        "generation": "g1",
        "first_seq": 1,
        "last_seq": 12,
        "created": "1970-01-01T00:00:00.000000Z",
        "ended": "1970-01-01T00:00:01.000000Z",
        "parent_run_id": "r1",
    }


def test_a_running_run_has_no_end() -> None:
    info = RunInfo("r1", "r1", None, "nightly", "running", "g1", 1, 0, created=0)
    assert {"ended", "parent_run_id"}.isdisjoint(json.loads(encode_run(info)))
