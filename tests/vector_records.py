"""Records from the shared test vectors, which every language's folds must agree on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from runstream.record import Draft, Origin, Record

ORIGIN = Origin("generation", "w", None, "run-1")


def folds(name: str) -> list[dict[str, Any]]:
    """The cases of one file of vectors."""
    text = (Path(__file__).parent / "vectors" / f"{name}.json").read_text("utf-8")
    cases: list[dict[str, Any]] = json.loads(text)["folds"]
    return cases


def record_of(vector: dict[str, Any], seq: int = 1) -> Record:
    """The record of a vector, as the `seq`th of its stream."""
    names = ("topic", "step", "step_run_id", "attempt", "correlation_id", "index")
    data = msgspec.Raw(msgspec.json.encode(vector["data"]))
    draft = Draft(
        0,
        vector.get("run_id", "run-1"),
        vector["kind"],
        data,
        **{name: vector[name] for name in names if name in vector},
    )
    return Record(seq, draft, ORIGIN)
