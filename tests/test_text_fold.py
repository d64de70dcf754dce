"""The shared vectors of the fold of text, and how much it holds."""

from __future__ import annotations

from typing import Any

import pytest

from runstream import text_fold
from runstream.text_fold import TextFold
from vector_records import folds, record_of


@pytest.mark.parametrize("case", [pytest.param(c, id=c["comment"]) for c in folds("text")])
def test_text_vector(case: dict[str, Any]) -> None:
    fold = TextFold()
    for seq, vector in enumerate(case["records"], 1):
        fold.feed(record_of(vector, seq))
    texts = {
        name: {"text": fold.text(name), "discarded": fold.discarded(name)} for name in fold.names()
    }
    assert texts == case["expected"]


def test_feeding_says_whose_text_grew() -> None:
    fold = TextFold()
    token = {"kind": "token", "correlation_id": "a", "data": {"text": "x"}}
    assert fold.feed(record_of(token)) == "a"
    assert fold.feed(record_of({"kind": "progress", "data": {"text": "x"}})) is None


def test_the_oldest_texts_go_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_fold, "TEXTS_MAX", 3)
    fold = TextFold()
    for number in range(5):
        token = {"kind": "token", "correlation_id": str(number), "data": {"text": "x"}}
        fold.feed(record_of(token))
    assert fold.names() == ["2", "3", "4"]
