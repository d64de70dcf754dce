"""What the writer of an SQLite log knows from its own appends, so that the next one need not look it up.

SQLite itself tells whether another process has committed anything since; and whatever else this process
writes (it opens runs, claims, ends, removes them) makes it forget, as a roll-back does.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from ..log import ProducerState, Status

# Streams, and producers, about half a kilobyte each: more than a server meets between two runs that begin.
STREAMS_MAX: Final = 4096
PRODUCERS_MAX: Final = 4096


class Stream:
    """The row of a root run, as far as appends need it; changed as they change it."""

    __slots__ = ("ended_as", "generation", "id", "last_seq", "owner", "run_id")

    def __init__(
        self,
        id: int,
        run_id: str,
        generation: str,
        last_seq: int,
        owner: str | None,
        ended_as: Status | None,
    ) -> None:
        self.id = id
        self.run_id = run_id
        self.generation = generation
        self.last_seq = last_seq
        # Who holds the lease.
        self.owner = owner
        self.ended_as = ended_as


class Known:
    """For one connection, on the writer's thread: `begin` in each of its transactions."""

    def __init__(self) -> None:
        # By the ids of runs. A child has its root's, which is here then, too: there is one of each.
        self.streams: dict[str, Stream] = {}
        # By the stream's row and the producer's id.
        self.producers: dict[tuple[int, str], ProducerState] = {}
        self._connection: sqlite3.Connection | None = None
        self._version = 0

    def begin(self, connection: sqlite3.Connection) -> None:
        """A transaction has begun: what is known goes on to be true if nobody else has written."""
        version: int = connection.execute("PRAGMA data_version").fetchone()[0]
        if connection is not self._connection or version != self._version:
            # (The number tells nothing about that of another connection: one is made after each fork.)
            self._connection, self._version = connection, version
            self.forget()

    def keep_stream(self, run_id: str, stream: Stream) -> None:
        """What an append to the run has left behind."""
        if len(self.streams) >= STREAMS_MAX:
            self.streams.clear()
        self.streams[run_id] = self.streams[stream.run_id] = stream

    def keep_producer(self, stream: int, producer: str, state: ProducerState) -> None:
        """The same for its producer."""
        if len(self.producers) >= PRODUCERS_MAX:
            self.producers.clear()
        self.producers[stream, producer] = state

    def forget(self) -> None:
        """Trust nothing any more."""
        self.streams.clear()
        self.producers.clear()
