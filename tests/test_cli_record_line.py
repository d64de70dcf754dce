from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from runstream import Record
from runstream.cli.record_line import RecordLines, compact, cropped, describe
from runstream.cli.terminal import harmless
from runstream.record import GAP, Draft, Origin, make_draft

ORIGIN = Origin("g1", "w", None, "r1")


def record(kind: str, payload: Any, **more: Any) -> Record:
    draft = msgspec.structs.replace(make_draft("r1", kind, payload), **more)
    return Record(0 if kind == GAP else 1, draft, ORIGIN)


SAID: list[tuple[str, Any, str]] = [
    ("token", {"text": " upon"}, '" upon"'),
    ("token", {"text": "Hi", "logprob": -1.5}, 'text="Hi" logprob=-1.5'),
    ("event", {"a": 1, "b": None, "c": {"d": []}}, 'a=1 c={"d":[]}'),
    ("event", {}, ""),
    ("run.completed", {"result": None}, ""),
    ("run.completed", {"result": 0}, "result=0"),
    ("run.failed", {"exception": {"type": "OSError", "message": "no"}}, "OSError: no"),
    ("run.failed", {"reason": "other"}, 'reason="other"'),
    ("task.failed", {"state": {}, "error": {"type": "E", "message": "m"}}, "E: m"),
    ("task.started", {"task_id": "t", "state": {"n": 1}}, "n=1"),
    ("task.progress", {"patch": [{"op": "replace", "path": "/n", "value": 2}]}, "n=2"),
    (
        "task.progress",
        {
            "patch": [
                {"op": "append", "path": "/t", "value": "x"},
                {"op": "remove", "path": "/n"},
            ]
        },
        't+="x", -n',
    ),
    ("task.progress", {"patch": [{"op": "replace", "path": "", "value": {}}]}, "state={}"),
    ("task.progress", {"patch": [{"op": "move", "from": "/a", "path": "/b"}]}, '{"op":"move"'),
    ("task.progress", {"patch": "no list"}, 'patch="no list"'),
    (
        "stream.gap",
        {"reason": "generation_changed", "from_seq": 5, "to_seq": None, "next_seq": 1},
        "the stream was lost and rebuilt; going on with its record 1",
    ),
    ("stream.gap", {"reason": "removed"}, "the run was removed from the log"),
    ("stream.gap", {"reason": "of a newer version"}, 'reason="of a newer version"'),
]


@pytest.mark.parametrize(("kind", "data", "said"), SAID)
def test_a_record_says_in_short_what_it_holds(kind: str, data: Any, said: str) -> None:
    text = describe(record(kind, data))
    assert text.startswith(said)
    assert said or not text


@pytest.mark.parametrize("raw", [b"[1,2]", b'"text"', b"null", b"12", b"[" * 900 + b"]" * 900])
def test_data_that_is_no_object_is_shown_as_json(raw: bytes) -> None:
    assert describe(record("event", {}, data=msgspec.Raw(raw))) == raw.decode()


def test_data_nested_deeper_than_python_can_hold_is_shown_as_it_is() -> None:
    raw = b'{"a":' * 5000 + b"1" + b"}" * 5000
    assert describe(record("event", {}, data=msgspec.Raw(raw))) == raw.decode()


@pytest.mark.parametrize("time", [10**30, -(10**30), 10**17])
def test_no_clock_of_a_producer_can_break_a_line(time: int) -> None:
    (line,) = RecordLines("r1", colors=False).lines([record("event", {"a": 1}, time=time)])
    assert line.endswith("a=1")


def test_a_line_says_where_a_record_comes_from() -> None:
    lines = RecordLines("r1", colors=False)
    (line,) = lines.lines(
        [record("event", {}, run_id="child", step="train", attempt=2, topic="loss", index=4)]
    )
    assert line.endswith("  child train(2) [loss] #4")
    (line,) = lines.lines([record("event", {}, step="train", attempt=1, correlation_id="gen-1")])
    assert line.endswith("  train gen-1")


def test_each_correlation_id_keeps_its_colour_and_others_have_theirs() -> None:
    def color(correlation_id: str) -> str:
        token = record("token", {"text": "x"}, correlation_id=correlation_id)
        (line,) = lines.lines([token])
        return line.rpartition('m"x"')[0].rpartition("\x1b[")[2]

    lines = RecordLines("r1", colors=True)
    assert color("a") != color("b")
    assert color("a") == color("a")
    for number in range(1000):  # a run may have any number of them
        color(str(number))


def test_without_colours_a_line_has_no_escape_code() -> None:
    for kind in ("token", "run.failed", "task.progress", "stream.dropped", GAP):
        (line,) = RecordLines("r1", colors=False).lines([record(kind, {"text": "x"})])
        assert "\x1b" not in line


@given(st.text(max_size=60), st.integers(60, 120))
def test_a_line_fits_whatever_it_holds(text: str, width: int) -> None:
    (line,) = RecordLines("r1", colors=False).lines([record("event", {"text": text})], width)
    assert cell_len(line) <= width


@given(st.text(), st.integers(1, 40))
def test_what_is_cropped_fits_and_says_so(text: str, width: int) -> None:
    text = harmless(text)
    shown = cropped(text, width)
    assert cell_len(shown) <= width
    assert shown == text or shown.endswith("…")


@given(st.text())
def test_harmless_text_has_no_control_characters_left(text: str) -> None:
    controls = {*range(32), *range(127, 160), 0x202E, 0x2066}
    assert not controls & set(map(ord, harmless(text)))


def test_compact_is_stable_for_anything_json() -> None:
    assert compact({"a": "b c", "d": [1.5, True, None]}) == 'a="b c" d=[1.5,true,null]'
    assert compact([{}]) == "[{}]"


def test_an_end_is_never_cut() -> None:
    draft: Draft = make_draft(
        "r1", "run.failed", {"exception": {"type": "E", "message": "long " * 50}}
    )
    (line,) = RecordLines("r1", colors=False).lines([Record(9, draft, ORIGIN)], 60)
    assert line.startswith("✗   9  ")
    assert line.endswith("E: " + ("long " * 50).rstrip())
