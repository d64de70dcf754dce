"""Every error that Runstream raises on purpose: one root, few children, each with a wire code.

`code` is stable text for programs (and for the wire); the message is for people and says what to do.
"""

from __future__ import annotations

from typing import ClassVar


class RunstreamError(Exception):
    """The root of all errors of this package."""

    code: ClassVar[str] = "internal"


# --- what the caller gave us ---------------------------------------------------------------------


class InvalidInput(RunstreamError, ValueError):
    """A name, payload, position or setting is not acceptable; the message names it and the limit."""

    code = "invalid_input"


class InvalidPayload(InvalidInput):
    """A payload cannot be stored as JSON exactly as it is (not JSON, NaN, infinity, too deep, …)."""

    code = "invalid_payload"


class PayloadTooLarge(InvalidPayload):
    """A payload's JSON is longer than the limit on one record."""

    code = "payload_too_large"


class InvalidURL(InvalidInput):
    """A log URL names an unknown scheme or option."""

    code = "invalid_url"


class RequestTooLarge(InvalidInput):
    """A request holds more bytes or events than the server takes at once; split it."""

    code = "request_too_large"


# --- the state of a run --------------------------------------------------------------------------


class RunNotFound(RunstreamError, LookupError):
    """No run of that id is in this log (never started, or already aged out)."""

    code = "run_not_found"


class RunEnded(RunstreamError):
    """The run has ended: its terminal record is the last one, nothing can follow it."""

    code = "run_ended"


class LeaseHeld(RunstreamError):
    """Another process holds the run's lease, and is renewing it."""

    code = "lease_held"


class LeaseLost(RunstreamError):
    """The lease that the caller held has expired or was taken by another process."""

    code = "lease_lost"


class ProducerFenced(RunstreamError):
    """A newer epoch of the same producer id exists: this writer is a zombie and must stop."""

    code = "producer_fenced"


class NumberGap(RunstreamError):
    """A batch's numbers leave a hole after, or partly overlap, what the log has of that producer."""

    code = "number_gap"


class WorkflowNotFound(RunstreamError, LookupError):
    """The server has no workflow of that name; it starts those that it was given."""

    code = "workflow_not_found"


# --- positions in a stream -----------------------------------------------------------------------


class InvalidPosition(RunstreamError, ValueError):
    """A position lies beyond the end of the stream (more than one past its newest record)."""

    code = "invalid_position"


class PositionGone(RunstreamError):
    """The records after a position are no longer there; `first_seq` is the first one left."""

    code = "position_gone"

    def __init__(self, message: str, *, first_seq: int) -> None:
        super().__init__(message)
        self.first_seq = first_seq


class GenerationChanged(PositionGone):
    """The stream was lost and rebuilt since the cursor was taken; `generation` is the new one."""

    code = "generation_changed"

    def __init__(self, message: str, *, first_seq: int, generation: str) -> None:
        super().__init__(message, first_seq=first_seq)
        self.generation = generation


# --- publishing ----------------------------------------------------------------------------------


class QueueFull(RunstreamError):
    """The publisher's queue found no room (policy `raise`, or `block` after its time limit)."""

    code = "queue_full"


# --- the log itself ------------------------------------------------------------------------------


class LogClosed(RunstreamError):
    """The log, or the connection to it, has been closed."""

    code = "log_closed"


class LogUnavailable(RunstreamError):
    """The log cannot be read or written now (disk full, read-only, locked, I/O error); try again."""

    code = "log_unavailable"


class LogReadOnly(LogUnavailable):
    """This process may read the log but not write to it (file permissions, a standby, a role)."""

    code = "log_read_only"


class NotALog(RunstreamError):
    """The file or server behind the URL is not a Runstream log, or is one of a newer version."""

    code = "not_a_log"


# --- a server between us and the log -------------------------------------------------------------


class Unauthorized(RunstreamError):
    """The server does not know who asks: no token, or one that is wrong, expired or withdrawn."""

    code = "unauthorized"


class Forbidden(RunstreamError):
    """The token does not allow this, or not for this run (which may or may not exist)."""

    code = "forbidden"


class TooManySubscribers(RunstreamError):
    """The run, or the server, has as many subscribers as it takes; try again later."""

    code = "too_many_subscribers"


class StreamingOff(RunstreamError):
    """Streaming is switched off at this server: producers stop sending, nothing is followed."""

    code = "streaming_off"


# --- models --------------------------------------------------------------------------------------


class InferenceFailed(RunstreamError):
    """A model could not be loaded, or did not answer to the end; the message has the engine's words.

    `status` is the HTTP status of a server that refused, such as 429.
    """

    code = "inference_failed"

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class ExtraMissing(RunstreamError, ImportError):
    """An optional dependency is not installed; the message names the extra that brings it."""

    code = "extra_missing"


# --- how a run ended, raised by `await handler` --------------------------------------------------


class RunFailed(RunstreamError):
    """The run ended as failed; `error` is what its terminal record says."""

    code = "run_failed"

    def __init__(self, message: str, *, error: dict[str, object] | None = None) -> None:
        super().__init__(message)
        self.error = error or {}


class RunCancelled(RunstreamError):
    """The run was cancelled."""

    code = "run_cancelled"


class RunTimedOut(RunstreamError, TimeoutError):
    """The run exceeded its time limit."""

    code = "run_timed_out"


class StepTimedOut(RunstreamError, TimeoutError):
    """An attempt of a step exceeded the step's time limit."""

    code = "step_timed_out"


class RunLost(RunstreamError):
    """The run's process vanished and its grace is over; the log ended the run in its place."""

    code = "run_lost"
