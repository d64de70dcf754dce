"""The mailbox: no event is lost between who sends it and who begins to wait for it."""

from __future__ import annotations

from runstream import Event
from runstream.mailbox import Mailbox, Waiter


class Letter(Event):
    text: str = ""


class Numbered(Event, kind="Letter"):
    text: int


def waiter() -> Waiter:
    return Waiter(Letter, {})


def test_who_comes_between_the_offer_and_the_keeping_gets_the_event() -> None:
    mailbox, letter, late = Mailbox(), Letter(text="a"), waiter()
    assert not mailbox.offer(letter)
    mailbox.wait(late)
    mailbox.keep(letter)
    assert late.arrived.result(0) is letter
    later = waiter()
    mailbox.wait(later)
    assert not later.arrived.done()


def test_a_waiter_that_is_cancelled_but_not_withdrawn_is_passed_over() -> None:
    mailbox, letter = Mailbox(), Letter(text="a")
    gone, other = waiter(), waiter()
    mailbox.wait(gone)
    mailbox.wait(other)
    assert gone.arrived.cancel()
    assert mailbox.offer(letter)
    mailbox.withdraw(gone)
    assert other.arrived.result(0) is letter
    assert not mailbox.offer(letter)


def test_an_event_that_was_given_to_one_who_goes_is_another_s() -> None:
    mailbox, letter = Mailbox(), Letter(text="a")
    gone, other = waiter(), waiter()
    mailbox.wait(gone)
    mailbox.wait(other)
    assert mailbox.offer(letter)
    mailbox.withdraw(gone)
    assert other.arrived.result(0) is letter


def test_what_came_before_anybody_said_which_class_of_its_kind_is_meant_is_read_as_that_one() -> (
    None
):
    def namesake() -> type[Event]:
        class Letter(Event):  # the newest of its kind
            number: int = 0

        return Letter

    mailbox, wanted = Mailbox(), Waiter(Letter, {"text": "a"})
    for text in ("b", "a"):
        mailbox.keep(namesake().model_validate({"text": text}))
    mailbox.wait(wanted)
    assert wanted.arrived.result(0) == Letter(text="a")
    assert type(wanted.arrived.result(0)) is Letter
    unreadable = Waiter(Numbered, {})
    mailbox.wait(unreadable)
    assert not unreadable.arrived.done()
