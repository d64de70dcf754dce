"""Runstream: live, durable, ordered, resumable event streams out of running Python code."""

from .connection import Connection, connect
from .errors import (
    InvalidInput,
    LogUnavailable,
    QueueFull,
    RunCancelled,
    RunEnded,
    RunFailed,
    RunLost,
    RunNotFound,
    RunstreamError,
    RunTimedOut,
)
from .events import (
    Event,
    HumanResponseEvent,
    InputRequiredEvent,
    StartEvent,
    StopEvent,
    WorkflowCancelledEvent,
    WorkflowFailedEvent,
    WorkflowLostEvent,
    WorkflowTimedOutEvent,
)
from .fold import TaskState
from .handler import Handler
from .log import RunInfo
from .publishing import bind, drain, flush, publish, publisher_stats, run_environment
from .record import Record
from .run import attach, start_run
from .streams import Streams
from .task import Task

__version__ = "0.1.0.dev0"

__all__ = [
    "Connection",
    "Event",
    "Handler",
    "HumanResponseEvent",
    "InputRequiredEvent",
    "InvalidInput",
    "LogUnavailable",
    "QueueFull",
    "Record",
    "RunCancelled",
    "RunEnded",
    "RunFailed",
    "RunInfo",
    "RunLost",
    "RunNotFound",
    "RunTimedOut",
    "RunstreamError",
    "StartEvent",
    "StopEvent",
    "Streams",
    "Task",
    "TaskState",
    "WorkflowCancelledEvent",
    "WorkflowFailedEvent",
    "WorkflowLostEvent",
    "WorkflowTimedOutEvent",
    "attach",
    "bind",
    "connect",
    "drain",
    "flush",
    "publish",
    "publisher_stats",
    "run_environment",
    "start_run",
]
