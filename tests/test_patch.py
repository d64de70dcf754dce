"""The shared vectors, and properties on random states and random edits of them."""

from __future__ import annotations

import json
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from json_states import canonical, histories, keys, states, thorough
from runstream.errors import InvalidPayload
from runstream.patch import (
    DIFF_DEPTH_MAX,
    InvalidPatch,
    Json,
    Operation,
    apply,
    diff,
    diff_encoded,
    escape_token,
    parse_pointer,
)

VECTORS = json.loads((Path(__file__).parent / "vectors" / "patch.json").read_text("utf-8"))


def size(value: object) -> int:
    return len(msgspec.json.encode(value))


def nested(depth: int, leaf: Json, **beside: Json) -> Json:
    value = leaf
    for _ in range(depth):
        inner: dict[str, Json] = {"in": value}
        value = inner | beside
    return value


def check_exact(old: Json, new: Json) -> list[Operation]:
    """Check all that `diff` and `apply` promise for this pair of states."""
    before = canonical(old), canonical(new)
    patch = diff(old, new)
    told = canonical(patch)
    result = apply(old, patch)
    assert canonical(result) == canonical(new)
    assert (canonical(old), canonical(new), canonical(patch)) == (*before, told)
    assert all(step["op"] in ("add", "remove", "replace", "append") for step in patch)
    assert size(patch) <= size([{"op": "replace", "path": "", "value": new}])
    assert patch == diff_encoded(msgspec.json.encode(old), msgspec.json.encode(new))
    assert (not patch) == (canonical(old) == canonical(new))
    return patch


# --- vectors -------------------------------------------------------------------------------------


def vectors(section: str) -> list[Any]:
    return [pytest.param(vector, id=vector["comment"]) for vector in VECTORS[section]]


@pytest.mark.parametrize("vector", vectors("apply"))
def test_apply_vector(vector: dict[str, Any]) -> None:
    doc, patch = vector["doc"], vector["patch"]
    before = canonical(doc), canonical(patch)
    if vector.get("error"):
        assert "expected" not in vector
        with pytest.raises(InvalidPatch):
            apply(doc, patch)
    else:
        assert canonical(apply(doc, patch)) == canonical(vector["expected"])
    assert (canonical(doc), canonical(patch)) == before


@pytest.mark.parametrize("vector", vectors("diff"))
def test_diff_vector(vector: dict[str, Any]) -> None:
    assert canonical(check_exact(vector["old"], vector["new"])) == canonical(vector["patch"])
    check_exact(vector["new"], vector["old"])


def test_every_vector_says_what_it_shows_once() -> None:
    comments = [vector["comment"] for section in ("apply", "diff") for vector in VECTORS[section]]
    assert len(comments) == len(set(comments))


# --- random states -------------------------------------------------------------------------------


@thorough
@given(states, states)
def test_diff_is_exact(old: Json, new: Json) -> None:
    check_exact(old, new)


@thorough
@given(st.lists(st.sampled_from("abcde")), st.lists(st.sampled_from("abcdex")))
def test_diff_of_lists_with_repeated_items_is_exact(old: list[Json], new: list[Json]) -> None:
    check_exact(old, new)


@thorough
@given(st.lists(states, max_size=12), st.randoms(use_true_random=False))
def test_diff_of_reordered_lists_is_exact(old: list[Json], random: Any) -> None:
    check_exact(old, random.sample(old, len(old)))


@thorough
@given(histories())
def test_folding_the_diffs_gives_every_state_and_changes_none(history: list[Json]) -> None:
    folded = [history[0]]
    for old, new in pairwise(history):
        folded.append(apply(folded[-1], check_exact(old, new)))
    # Compared at the end: what shares parts with later states must still be what it was.
    assert [canonical(state) for state in folded] == [canonical(state) for state in history]


@st.composite
def patches(draw: st.DrawFn) -> list[Json]:
    pointers = st.lists(keys | st.sampled_from("012"), max_size=3).map(
        lambda tokens: "".join("/" + escape_token(token) for token in tokens)
    )
    names = st.sampled_from(["add", "remove", "replace", "append", "move", "copy", "test", "?"])
    members = {"op": names, "path": pointers, "from": pointers, "value": states}
    operations = st.lists(st.fixed_dictionaries(members), max_size=6)
    return cast("list[Json]", draw(operations))


@thorough
@given(states, patches())
def test_apply_never_changes_its_input(doc: Json, patch: list[Json]) -> None:
    before = canonical(doc), canonical(patch)
    try:
        one_by_one = doc
        for operation in patch:
            one_by_one = apply(one_by_one, [operation])
    except InvalidPatch:
        with pytest.raises(InvalidPatch):
            apply(doc, patch)
    else:
        # Owning containers across operations must not be seen in the result.
        assert canonical(apply(doc, patch)) == canonical(one_by_one)
    assert (canonical(doc), canonical(patch)) == before


@thorough
@given(st.lists(keys))
def test_escaped_tokens_are_read_back(tokens: list[str]) -> None:
    assert parse_pointer("".join("/" + escape_token(token) for token in tokens)) == tokens


# --- exactness, size and cost --------------------------------------------------------------------

LOOKALIKES: list[Json] = [True, False, 0, 1, 0.0, -0.0, 1.0, "1", None, "", [], {}, 2**53, 2.0**53]


@pytest.mark.parametrize("old", LOOKALIKES, ids=repr)
def test_values_that_look_alike_are_told_apart(old: Json) -> None:
    for new in LOOKALIKES:
        assert bool(check_exact({"a": [old]}, {"a": [new]})) == (repr(old) != repr(new))


@pytest.mark.parametrize("length", [10, 20_000])
def test_growth_costs_its_new_part_only(length: int) -> None:
    items: list[Json] = [f"token {number}" for number in range(length)]
    text = "".join(map(str, items))
    assert size(check_exact({"l": items}, {"l": [*items, "x"]})) == 43
    assert size(check_exact({"t": text}, {"t": text + "x"})) == 41
    assert size(check_exact({"deep": [{"l": items}]}, {"deep": [{"l": [*items, "x"]}]})) == 50


def test_changes_at_both_ends_of_a_long_list_stay_small() -> None:
    items: list[Json] = [{"id": number, "text": "some text"} for number in range(5_000)]
    one: Json = {"id": -1}
    assert len(check_exact(items, [*items[1:], one])) == 2
    assert len(check_exact(items, [one, *items[:-1]])) == 2
    assert len(check_exact(items, [items[-1], *items[:-1]])) == 2
    assert len(check_exact(items, [*items[:100], one, *items[100:4_000], one, *items[4_000:]])) == 2
    assert len(check_exact(items, [item for item in items if item not in items[50:90:7]])) == 6
    assert len(check_exact(items, [items[-1], *items[1:-1], items[0]])) == 2


def test_flags_that_change_in_their_places_cost_one_operation_each() -> None:
    old: list[Json] = [False] * 1_000
    new: list[Json] = [number % 100 == 7 for number in range(1_000)]
    assert [operation["op"] for operation in check_exact(old, new)] == ["replace"] * 10


def test_a_large_shuffle_is_replaced() -> None:
    items: list[Json] = list(range(5_000))
    assert [operation["op"] for operation in check_exact(items, items[::-1])] == ["replace"]


@pytest.mark.parametrize("depth", [DIFF_DEPTH_MAX - 1, DIFF_DEPTH_MAX, DIFF_DEPTH_MAX + 1, 600])
def test_deep_states_are_patched_and_very_deep_parts_replaced(depth: int) -> None:
    (operation,) = check_exact(nested(depth, 1, same="x" * 9), nested(depth, 2, same="x" * 9))
    assert operation["op"] == "replace"
    assert len(parse_pointer(str(operation["path"]))) == min(depth, DIFF_DEPTH_MAX)


def brackets(depth: int, leaf: bytes) -> bytes:
    return b"[" * depth + leaf + b"]" * depth


def can_decode(depth: int) -> bool:
    try:
        msgspec.json.decode(brackets(depth, b""))
    except RecursionError:
        return False
    return True


def test_a_state_near_the_interpreters_limit_is_still_patched() -> None:
    depth = next(depth for depth in range(100_000, 0, -10) if can_decode(depth)) - 10
    (operation,) = diff_encoded(brackets(depth, b"1"), brackets(depth, b"2"))
    # Where Python and C share one limit, going down step by step is what reaches it.
    assert (operation["op"], operation["path"]) in (
        ("replace", ""),
        ("replace", "/0" * DIFF_DEPTH_MAX),
    )


def test_what_is_not_json_is_refused() -> None:
    for value in (object(), "\ud800", {(1, 2): 3}):
        with pytest.raises(InvalidPayload):
            diff(None, cast("Json", value))
    deep: Json = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidPayload):
        diff(deep, None)


# --- apply ---------------------------------------------------------------------------------------


def test_the_result_shares_what_has_not_changed() -> None:
    doc: dict[str, Json] = {"a": {"x": [1]}, "b": {"y": [2]}}
    result = cast("dict[str, Json]", apply(doc, [{"op": "append", "path": "/a/x", "value": [3]}]))
    assert result == {"a": {"x": [1, 3]}, "b": {"y": [2]}}
    assert doc == {"a": {"x": [1]}, "b": {"y": [2]}}
    assert result["b"] is doc["b"]
    assert apply(doc, []) is doc


class CountingList(list[Json]):
    copies = 0

    def copy(self) -> list[Json]:
        CountingList.copies += 1
        return CountingList(self)


def test_a_container_is_copied_once_however_many_operations_change_it() -> None:
    doc: Json = {"l": CountingList(range(1_000))}
    patch: list[Json] = [{"op": "remove", "path": "/l/0"} for _ in range(400)]
    patch.extend({"op": "append", "path": "/l", "value": [number]} for number in range(400))
    patch.append({"op": "copy", "from": "/l/0", "path": "/first"})
    patch.extend({"op": "replace", "path": f"/l/{index}", "value": None} for index in range(400))
    CountingList.copies = 0
    assert len(cast("dict[str, list[Json]]", apply(doc, patch))["l"]) == 1_000
    assert CountingList.copies == 1


def test_values_in_a_patch_are_not_changed_by_later_operations() -> None:
    patch: list[Operation] = [
        {"op": "add", "path": "/a", "value": {"l": []}},
        {"op": "append", "path": "/a/l", "value": [1]},
    ]
    assert apply({}, patch) == apply({}, patch) == {"a": {"l": [1]}}
    assert patch[0]["value"] == {"l": []}


def test_the_error_names_the_operation() -> None:
    patch: list[Json] = [{"op": "test", "path": "", "value": [1]}, {"op": "remove", "path": "/7"}]
    with pytest.raises(InvalidPatch, match=r"operation 1 \(remove '/7'\): '7' is not") as caught:
        apply([1], patch)
    assert (caught.value.position, caught.value.op, caught.value.path) == (1, "remove", "/7")
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.position, again.path) == (str(caught.value), 1, "/7")
    with pytest.raises(InvalidPatch, match="must be an array") as caught:
        apply([1], cast("Any", None))
    assert caught.value.position == -1


def test_a_long_path_does_not_make_a_long_message() -> None:
    with pytest.raises(InvalidPatch) as caught:
        apply({}, [{"op": "remove", "path": "/" + "x" * 1_000_000}])
    assert len(str(caught.value)) < 600


def test_test_compares_deep_values_without_recursion() -> None:
    patch: list[Json] = [{"op": "test", "path": "", "value": nested(900, 1)}]
    assert apply(nested(900, 1), patch) == nested(900, 1)
