"""What the tests have other processes do; in a module that a spawned process can import."""

from __future__ import annotations

from runstream import attach, publish
from runstream.context import current_scope


def publish_numbers(first: int, count: int) -> None:
    for number in range(first, first + count):
        publish({"n": number})


def publish_and_end(url: str, run_id: str, count: int) -> None:
    """Publish into the run that was inherited, else into that of the arguments; no flush at the end."""
    if current_scope.get() is None:
        with attach(run_id, url=url):
            publish_numbers(0, count)
    else:
        publish_numbers(0, count)
