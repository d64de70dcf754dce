"""What all routes of one server share: the log, who may use it, its limits and its figures."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final

from ..api import BODY_BYTES_MAX, EVENTS_MAX, HEARTBEAT_S
from ..log import Log
from ..retention import NO_LIMITS, Retention
from .access import Access, OpenAccess
from .followers import Followers
from .intake import Intake
from .metrics import Metrics
from .workflows import Workflows

# Subscribers of one run: each costs about 30 KiB; a page shared by a large audience still fits.
SUBSCRIBERS_PER_RUN_MAX: Final = 10_000
# Subscribers of all runs: over HTTP/1.1 each has a connection, over HTTP/2 some hundred may share one.
SUBSCRIBERS_MAX: Final = 20_000
# Bytes that wait for one subscriber that does not read.
SUBSCRIBER_BYTES_MAX: Final = 1024 * 1024
# A subscriber that has taken nothing for this time is cut, with a reason; it can come back and resume.
STALLED_S_MAX: Final = 60.0
# A body of the largest size takes this long on a line of 1 Mbit/s; a sender that is slower holds memory
# and a connection for nothing.
BODY_READ_S_MAX: Final = 40.0
# Bodies that are being read or stored, together: as many as a disk takes in about a second. Without it
# whoever may write could fill the memory by many connections that send slowly.
BODIES_BYTES_MAX: Final = 256 * 1024 * 1024
# Long answers that wait for their readers, together: else many that ask for pages and read slowly would
# fill it in the same way.
ANSWERS_BYTES_MAX: Final = 256 * 1024 * 1024
# Subscribers get this long to hear why a stopping server leaves, and appends to finish.
DRAIN_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What an operator may set. Times in seconds."""

    streaming: bool = True
    cors_origins: tuple[str, ...] = ()
    events_max: int = EVENTS_MAX
    body_bytes_max: int = BODY_BYTES_MAX
    body_read_s_max: float = BODY_READ_S_MAX
    bodies_bytes_max: int = BODIES_BYTES_MAX
    answers_bytes_max: int = ANSWERS_BYTES_MAX
    heartbeat_s: float = HEARTBEAT_S
    subscribers_per_run_max: int = SUBSCRIBERS_PER_RUN_MAX
    subscribers_max: int = SUBSCRIBERS_MAX
    subscriber_bytes_max: int = SUBSCRIBER_BYTES_MAX
    stalled_s_max: float = STALLED_S_MAX
    drain_s: float = DRAIN_S
    retention: Retention = NO_LIMITS


@dataclass(slots=True, kw_only=True)
class Site:
    """One server's parts, made when it starts.

    `stopping` is set when the server is about to go: whatever waits or streams ends soon after it, and
    says why to whom it serves.
    """

    log: Log
    access: Access = field(default_factory=OpenAccess)
    options: ServerOptions = field(default_factory=ServerOptions)
    metrics: Metrics = field(default_factory=Metrics)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    workflows: Workflows = field(default_factory=Workflows)
    body_bytes_held: int = 0
    answer_bytes_held: int = 0
    # The server in front makes the scope of a request for us alone, and looks at it no more.
    owns_scopes: bool = False
    intake: Intake = field(init=False)
    followers: Followers = field(init=False)

    def __post_init__(self) -> None:
        self.intake = Intake(self.log)
        self.followers = Followers(
            self.log,
            self.metrics,
            self.stopping,
            look_s=min(self.options.heartbeat_s, self.options.stalled_s_max) / 4,
            bytes_max=self.options.subscriber_bytes_max,
            per_run_max=self.options.subscribers_per_run_max,
            subscribers_max=self.options.subscribers_max,
        )
