"""Random JSON states, and random edits of them, for the tests of patches, tasks and folds."""

from __future__ import annotations

from typing import cast

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from runstream.patch import Json


def canonical(value: object) -> bytes:
    """The bytes that two values share when they are the same JSON; only there is order free."""
    return msgspec.json.encode(value, order="sorted")


# Few distinct scalars and keys, so that states share parts; those that Python takes for equal are
# all among them.
keys = st.sampled_from(["a", "b", "a/b", "a~b", "~1", "", "0", "-", "é", "😀"]) | st.text(
    max_size=3
)
scalars = st.one_of(
    st.sampled_from([None, True, False, 0, 1, 0.0, -0.0, 1.0, "", "1", "a", "ab", "abc"]),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
)
states = cast(
    "st.SearchStrategy[Json]",
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(keys, inner, max_size=5),
        max_leaves=30,
    ),
)
# Hypothesis may not read a slow machine as a fault of the code.
thorough = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def containers(state: Json) -> list[dict[str, Json] | list[Json]]:
    found: list[dict[str, Json] | list[Json]] = []
    pending = [state]
    while pending:
        value = pending.pop()
        if isinstance(value, (dict, list)):
            found.append(value)
            pending.extend(value.values() if isinstance(value, dict) else value)
    return found


def edit(state: Json, draw: st.DrawFn) -> Json:
    """Return a copy of the state with one change somewhere inside it."""
    changed: Json = msgspec.json.decode(msgspec.json.encode(state))
    if not isinstance(changed, (dict, list)) or draw(st.integers(0, 19)) == 0:
        return draw(states)
    edit_inside(changed, draw)
    return changed


def edit_inside(state: Json, draw: st.DrawFn) -> None:
    """Make one change somewhere inside the state, if it is a container."""
    found = containers(state)
    if not found:
        return
    place = draw(st.sampled_from(found))
    if isinstance(place, dict):
        edit_dict(place, draw)
    else:
        edit_list(place, [each for each in found if isinstance(each, list)], draw)


def edit_dict(place: dict[str, Json], draw: st.DrawFn) -> None:
    key, value = draw(st.sampled_from([*place, ""]) | keys), draw(states)
    what = draw(st.sampled_from(["set", "delete", "rename", "grow"]))
    before = place.pop(key, None) if what != "set" else None
    if what == "set":
        place[key] = value
    elif what == "rename":
        place[draw(keys)] = before
    elif what == "grow":
        place[key] = before + draw(st.text()) if isinstance(before, str) else [before, value]


def edit_list(place: list[Json], lists: list[list[Json]], draw: st.DrawFn) -> None:
    index, value = draw(st.integers(0, len(place))), draw(states)
    match draw(
        st.sampled_from(["append", "pop", "insert", "replace", "reverse", "rotate", "move"])
    ):
        case "append":
            place.append(value)
        case "pop":
            del place[index : index + 1]
        case "insert":
            place.insert(index, value)
        case "replace":
            place[index : index + 1] = [value]
        case "reverse":
            place.reverse()
        case "rotate":
            place[:] = place[index:] + place[:index]
        case _:  # move an item to another list, or within this one
            moved = msgspec.json.encode(place[index : index + 1])
            del place[index : index + 1]
            draw(st.sampled_from(lists)).extend(msgspec.json.decode(moved))


@st.composite
def histories(draw: st.DrawFn) -> list[Json]:
    history = [draw(states)]
    for _ in range(draw(st.integers(1, 8))):
        history.append(edit(history[-1], draw))
    return history
