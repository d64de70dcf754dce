"""Runstream: live, durable, ordered, resumable event streams out of running Python code."""

from .attachment import attach
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
    StepTimedOut,
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
from .pipeline import Pipeline, pipeline
from .publishing import bind, drain, flush, publish, publisher_stats, run_environment
from .record import Record
from .retention import Retention
from .retry import Retry
from .run import start_run
from .step import Step, step
from .step_future import StepFuture
from .streams import Streams
from .task import Task
from .workflow import Workflow
from .workflow_context import Context

__version__ = "0.1.0.dev0"

__all__ = [
    "Connection",
    "Context",
    "Event",
    "Handler",
    "HumanResponseEvent",
    "InputRequiredEvent",
    "InvalidInput",
    "LogUnavailable",
    "Pipeline",
    "QueueFull",
    "Record",
    "Retention",
    "Retry",
    "RunCancelled",
    "RunEnded",
    "RunFailed",
    "RunInfo",
    "RunLost",
    "RunNotFound",
    "RunTimedOut",
    "RunstreamError",
    "StartEvent",
    "Step",
    "StepFuture",
    "StepTimedOut",
    "StopEvent",
    "Streams",
    "Task",
    "TaskState",
    "Workflow",
    "WorkflowCancelledEvent",
    "WorkflowFailedEvent",
    "WorkflowLostEvent",
    "WorkflowTimedOutEvent",
    "attach",
    "bind",
    "connect",
    "drain",
    "flush",
    "pipeline",
    "publish",
    "publisher_stats",
    "run_environment",
    "start_run",
    "step",
]
