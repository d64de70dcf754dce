"""The mailbox: no event is lost between who sends it and who begins to wait for it."""

from __future__ import annotations

from runstream import Event
from runstream.mailbox import Mailbox, Waiter


class Letter(Event):
    text: str = ""


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
