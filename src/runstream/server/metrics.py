"""The figures of one server process."""

from __future__ import annotations


class Metrics:
    """Counts what passes; cheap enough for every request."""

    def appended(self, records: int, size_bytes: int, seconds: float) -> None:
        """A batch is stored."""

    def delivered(self, records: int, size_bytes: int) -> None:
        """Frames were handed to one subscriber."""

    def subscribed(self) -> None:
        """A subscriber came."""

    def unsubscribed(self) -> None:
        """A subscriber went."""

    def cut(self, reason: str) -> None:
        """A subscriber was cut off."""

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """A request is done; `route` is the pattern, not the address."""
