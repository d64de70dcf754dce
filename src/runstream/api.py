"""The HTTP API, version 1, as data: bodies of requests and answers, and the limits on them.

Server and client share this file, so that neither can say what the other does not read. Records and runs
themselves are in `wire`, errors in `problem`, frames in `sse`. Unknown members of a request are refused:
a misspelt option must not be ignored silently.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec

from .retention import Retention
from .wire import Envelope

# --- limits ---------------------------------------------------------------------------------------

# Events in one request: enough that the cost per request vanishes, few enough to answer in milliseconds.
EVENTS_MAX: Final = 1000
# Bytes of one request's body, after decompression.
BODY_BYTES_MAX: Final = 4 * 1024 * 1024
# A long poll is answered after this time at the latest: shorter than the idle limits of usual proxies.
WAIT_S_MAX: Final = 30.0
# Silence on a stream: a comment line after this time keeps proxies from cutting it.
HEARTBEAT_S: Final = 15.0
# What an EventSource waits before it connects again (ms); told once per stream.
RETRY_MS: Final = 1000
# Prefix of every route.
V1: Final = "/v1"

SSE: Final = "text/event-stream"
NDJSON: Final = "application/x-ndjson"
JSON: Final = "application/json"


class Body(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True):
    """A request or an answer, or a part of one."""


class Answer(Body, omit_defaults=False, forbid_unknown_fields=False):
    """An answer. Clients pass over members that they don't know: a newer server may say more."""


# --- PUT /v1/runs/{id} ------------------------------------------------------------------------------


class OpenRun(Body):
    """Open, create (with a `workflow`) or claim (with a `lease_s`) a run: `Log.open`.

    `retention` sets the limits of the run's stream; an empty one takes them away.
    """

    workflow: str | None = None
    parent_run_id: str | None = None
    producer: str | None = None
    lease_s: float | None = None
    grace_s: float = 0.0
    retention: Retention | None = None


class LeaseBody(Body):
    """A lease, for its observers: who holds it, and a counter that its owner keeps raising."""

    owner: str
    epoch: int
    counter: int
    lease_s: float
    grace_s: float


class RunBody(Answer, omit_defaults=True):
    """A run. Seqs are those of its root's stream; times are RFC 3339 in UTC.

    `lease` is shown to those who may write to the run.
    """

    run_id: str
    workflow: str
    status: str
    root_run_id: str
    generation: str
    first_seq: int
    last_seq: int
    created: str
    ended: str | None = None
    parent_run_id: str | None = None
    lease: LeaseBody | None = None


class OpenedRun(Answer):
    """The answer: the run, the producer's epoch and its last number, and whether the run is new (201)."""

    run: RunBody
    epoch: int
    number: int
    created: bool


# --- POST /v1/runs/{id}/events ------------------------------------------------------------------------


class ProducerBody(Body):
    """Who sends: id, epoch (0 for an id drawn at random, never opened), number of the first event."""

    id: str
    epoch: int
    number: int


class EventBody(Body, gc=False):
    """One event of a batch: an envelope without a seq. `data` is stored as it is.

    `time` defaults to the server's clock, `run_id` to the run of the address (a child's is allowed).
    """

    kind: str
    # (A factory, because a schema cannot show a default that is JSON already.)
    data: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    time: str | None = None
    run_id: str | None = None
    topic: str | None = None
    step: str | None = None
    step_run_id: str | None = None
    attempt: int | None = None
    correlation_id: str | None = None
    index: int | None = None


class AppendEvents(Body):
    """Append all of the events, or none: `Log.append`."""

    events: list[EventBody]
    producer: ProducerBody | None = None
    final: bool = False


class AppendedEvents(Answer):
    """The answer. The range may hold more records than were sent: children that a final event ended."""

    first_seq: int
    last_seq: int
    duplicates: int


# --- GET /v1/runs/{id}/events ------------------------------------------------------------------------


class EventsPage(Answer):
    """A page as JSON (`Accept: application/json`): records behind a position, of this run or, with
    `stream=true`, of its root's whole stream (then they are consecutive from `first_seq`: `Log.read`).

    `cursor` is where the next page begins, behind what a filter left out too; without records,
    `first_seq` is the number that the next one has or would have. `ended`: nothing comes behind it.
    """

    generation: str
    first_seq: int
    records: list[Envelope]
    cursor: str
    ended: bool


class StreamEnd(Answer):
    """The data of a `stream.end` frame: that was all, do not come back. `ended`: the run has ended and
    its last record is delivered; `caught_up`: everything stored is (`follow=false`); `removed`: the run
    is no longer there.

    The data of `stream.error` is a `problem.Problem`: with a status of 429 or 5xx come back and resume,
    with any other one the same request would be refused. `stream.cursor` has its cursor as `id`, and
    `{}` as data.
    """

    reason: Literal["ended", "caught_up", "removed"]


# --- POST /v1/runs/{id}/lease, /trim, /cancel, /signals, /tokens ------------------------------------


class LeaseAction(Body):
    """`renew` and `release` take owner and epoch; `expire` the whole lease that was seen to lapse."""

    action: Literal["renew", "release", "expire"]
    owner: str | None = None
    epoch: int | None = None
    lease: LeaseBody | None = None


class TrimRun(Body):
    """Drop the records up to and including `through`."""

    through: int


class CancelRun(Body):
    """Ask the process that runs it to cancel the run."""

    reason: str | None = None


class Signal(Body):
    """An event sent into a run: its type, and its fields."""

    type: str
    event: msgspec.Raw


class TokenRequest(Body):
    """A read token for one run; `ttl_s` is lowered to the server's limit."""

    ttl_s: float | None = None


class RunToken(Answer):
    """The token, and when it expires (RFC 3339)."""

    token: str
    expires: str


# --- GET /healthz -------------------------------------------------------------------------------------


class Health(Answer, omit_defaults=True):
    """`live`: the process answers. `ready`: it can serve; if not, `reason` says why."""

    live: bool
    ready: bool | None = None
    reason: str | None = None


# --- GET /v1/runs, POST /v1/workflows/{name}/runs ---------------------------------------------------


class RunList(Answer):
    """Runs, newest first; `next` goes into `before=` of the next page (null: that was the last). A page
    may hold fewer than were asked for, or none, and not be the last.
    """

    runs: list[RunBody]
    next: str | None


class StartRun(Body):
    """Start a registered workflow. `input` holds the fields of its start event, or its arguments."""

    input: dict[str, msgspec.Raw] = {}
    run_id: str | None = None


class WorkflowList(Body, omit_defaults=False):
    """The workflows that this server starts."""

    workflows: list[WorkflowBody]


class WorkflowBody(Answer):
    """A workflow that this server starts, and the JSON Schema of its input."""

    name: str
    description: str
    input_schema: dict[str, Any]
