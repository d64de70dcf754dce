"""The rules that every log asks before it stores something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.admission import admit, check_batch
from runstream.errors import InvalidInput, NumberGap, ProducerFenced
from runstream.log import Producer, ProducerState
from runstream.record import Draft, make_draft

ROOT = "run-1"
TOKEN = make_draft(ROOT, "token", {})
END = make_draft(ROOT, "run.completed", {})
CHILD_END = make_draft("child", "run.completed", {})


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), max_size=20))
def test_repeated_batches_are_stored_once_and_answered_with_their_places(
    sends: list[tuple[int, int]],
) -> None:
    """Each batch is sent one to three times, as after lost replies."""
    state: ProducerState | None = None
    stored: list[int] = []
    number = 1
    for count, times in sends:
        first_seq = len(stored) + 1
        for attempt in range(times):
            before, answer = admit(state, Producer("p", 0, number), count)
            if attempt:
                assert answer is not None
                assert (answer.first_seq, answer.last_seq) == (first_seq, first_seq + count - 1)
                assert answer.duplicates == count
                continue
            assert answer is None
            stored += range(number, number + count)
            last = number + count - 1
            state = ProducerState(before.epoch, last, number, first_seq, len(stored))
        number += count

    assert stored == list(range(1, number))


@given(st.integers(0, 10), st.integers(-2, 15), st.integers(1, 5))
def test_a_batch_is_new_known_or_refused_and_never_anything_else(
    have: int, number: int, count: int
) -> None:
    batch_number = max(have - 1, 1)
    state = ProducerState(0, have, batch_number, 1, have)
    producer = Producer("p", 0, number)
    last = number + count - 1

    if number == have + 1:
        assert admit(state, producer, count)[1] is None
    elif number >= 1 and last <= have:
        answer = admit(state, producer, count)[1]
        assert answer is not None
        assert answer.duplicates == count
        # Of the last batch the log knows the places, of any other, or a part of it, not.
        whole = (number, last) == (batch_number, have)
        assert (answer.first_seq, answer.last_seq) == ((1, have) if whole else (0, 0))
    else:
        with pytest.raises(NumberGap):
            admit(state, producer, count)


@pytest.mark.parametrize(("have", "sent"), [(2, 1), (1, 2), (0, 1)])
def test_only_the_present_epoch_may_write(have: int, sent: int) -> None:
    with pytest.raises(ProducerFenced):
        admit(ProducerState(epoch=have), Producer("p", sent, 1), 1)


@pytest.mark.parametrize("drafts", [[TOKEN, END], [END], [CHILD_END, TOKEN, END]])
def test_a_final_batch_ends_with_the_roots_end(drafts: list[Draft]) -> None:
    check_batch(drafts, root_run_id=ROOT, final=True)


@pytest.mark.parametrize(
    ("drafts", "final"),
    [
        ([], False),
        ([], True),
        ([TOKEN], True),
        ([END], False),
        ([END, TOKEN], True),
        ([END, END], True),
        ([CHILD_END], True),
    ],
)
def test_a_batch_and_final_must_agree(drafts: list[Draft], final: bool) -> None:
    with pytest.raises(InvalidInput):
        check_batch(drafts, root_run_id=ROOT, final=final)
