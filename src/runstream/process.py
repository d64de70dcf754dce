"""What this process holds: its open logs and its publishers, one of each per URL.

The only module-level state of the package beside the context variable. A forked child starts with none
of it: the parent's threads and connections do not exist there.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sys
import threading
import time
from concurrent.futures import Future
from typing import Final

import msgspec

from .batch import Counts
from .context import Scope
from .errors import LogUnavailable, RunEnded, RunstreamError
from .log import ClosesNow, Log, PausesForFork
from .logs import canonical_url, is_shared, open_log
from .outbox import Outbox
from .publisher import Publisher, new_producer_id
from .settings import Settings, read_settings
from .worker_threads import WorkerThreads

logger = logging.getLogger(__name__)


class PublisherStats(msgspec.Struct, frozen=True):
    """What became of this process's records, over all runs.

    `dropped` counts what found no room or came after the run's end, `dropped_outside` what was published
    outside any run, `failed` what a log refused; `muted` says that a server does not want records.
    """

    queued: int
    stored: int
    dropped: int
    dropped_outside: int
    failed: int
    last_error: str | None
    muted: bool


# A fork waits this long for a commit that is under way: longer than the slowest disk takes.
FORK_WAIT_S: Final = 5.0
# At exit the queued records are given this long to be stored.
EXIT_DRAIN_S: Final = 5.0


class Process:
    """Everything that is shared by URL. Safe for any thread."""

    def __init__(self) -> None:
        # Held while something is opened, which may take as long as a server elsewhere: never in a loop.
        self.opening = threading.RLock()
        # Held for a look or a change; taken inside the other one, never around it.
        self.lock = threading.RLock()
        self.logs: dict[str, tuple[Log, int]] = {}
        self.publishers: dict[str, Publisher] = {}
        self.past = Counts()
        self.dropped_outside = 0
        self.inherited: Scope | None = None
        self.looked_for_inherited = False
        self.watches_exit = False
        self.threads = WorkerThreads()


class Forking(threading.local):
    """What the forking thread holds while it forks."""

    held = False
    paused: list[PausesForFork] = []  # noqa: RUF012 - set before each fork


_process = Process()
_forking = Forking()
# Logs of the parent, in a forked child: closing their connections there could disturb the parent's.
_abandoned: list[Process] = []


def this_process() -> Process:
    """The state of the running process."""
    return _process


def acquire_log(url: str, *, token: str | None = None) -> Log:
    """Open a log, or share the open one of this process if it works in any loop. Blocks for the disk."""
    url = canonical_url(url)
    if token is not None or not is_shared(url):
        return open_log(url, token=token)
    log = _share(url)
    if log is not None:
        return log
    with _process.opening:
        log = _share(url)  # another one may have opened it meanwhile
        if log is None:
            log = open_log(url)
            with _process.lock:
                _process.logs[url] = (log, 1)
        return log


async def acquire_log_in_thread(url: str, *, token: str | None = None) -> Log:
    """As `acquire_log`, from a loop. Cancelled, it returns at once, and the thread that cannot be stopped
    lets go of what it opens.
    """
    handing: Future[Log] = Future()

    def open_for_caller() -> None:
        log = acquire_log(url, token=token)
        if handing.set_running_or_notify_cancel():
            handing.set_result(log)
        else:
            asyncio.run(release_log(url, log))

    try:
        await asyncio.to_thread(open_for_caller)
    except asyncio.CancelledError:
        if not handing.cancel():  # the log came at the same moment
            await release_log(url, handing.result())
        raise
    return handing.result()


async def release_log(url: str, log: Log) -> None:
    """The counterpart of `acquire_log`; the last one closes the log."""
    if _is_last(canonical_url(url), log):
        await log.aclose()


def _share(url: str) -> Log | None:
    """The log that is open, with one user more."""
    with _process.lock:
        log, users = _process.logs.get(url, (None, 0))
        if log is not None:
            _process.logs[url] = (log, users + 1)
        return log


def _is_last(url: str, log: Log) -> bool:
    """Take one user away; whether nobody else has the log, so that it is to be closed."""
    with _process.lock:
        shared, users = _process.logs.get(url, (None, 0))
        if shared is not log:
            return True
        if users > 1:
            _process.logs[url] = (log, users - 1)
            return False
        del _process.logs[url]
        return True


def publisher(url: str, settings: Settings | None = None) -> Publisher:
    """The process's publisher for a URL. Blocks for the disk when it is new."""
    url = canonical_url(url)
    there = open_publisher(url)
    if there is not None:
        return there
    with _process.opening:
        there = open_publisher(url)
        if there is None:
            settings = settings or read_settings()
            there = Publisher(url, acquire_log(url), settings)
            with _process.lock:
                _process.publishers[url] = there
            _watch_exit()
        return there


def open_publisher(url: str) -> Publisher | None:
    """The process's publisher for a canonical URL, if there is one already."""
    with _process.lock:
        return _process.publishers.get(url)


def threads() -> WorkerThreads:
    """The threads in which plain functions run as steps."""
    return _process.threads


def tickets() -> list[Future[bool]]:
    """One future per outbox: done when everything that is queued now is stored."""
    return [outbox.ticket() for there in _publishers() for outbox in there.outboxes]


def wait_stored(timeout: float) -> bool:
    """Wait until everything queued before the call is stored; False after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    waiting = tickets()
    stored = [_is_stored(ticket, deadline - time.monotonic()) for ticket in waiting]
    return all(stored)


def _is_stored(ticket: Future[bool], timeout: float) -> bool:
    try:
        return ticket.result(max(timeout, 0))
    except TimeoutError:
        return False


def stats() -> PublisherStats:
    """The counts of all outboxes, those that are gone included."""
    with _process.lock:
        stored, dropped, failed = (
            _process.past.stored,
            _process.past.dropped,
            _process.past.failed,
        )
    queued, last_error, muted = 0, None, False
    for there in _publishers():
        for outbox in there.outboxes:
            queued += outbox.waiting
            stored += outbox.counts.stored
            dropped += outbox.counts.dropped
            failed += outbox.counts.failed
            muted = muted or outbox.muted
            error = outbox.failing or outbox.closed_by
            if error is not None and not isinstance(error, RunEnded):
                last_error = str(error)
    return PublisherStats(
        queued, stored, dropped, _process.dropped_outside, failed, last_error, muted
    )


def close_publishers(timeout: float = EXIT_DRAIN_S) -> bool:
    """Drain and close every publisher of this process, and its log. True if all was stored.

    A run that is still inside its block publishes no more: `LogClosed`. What is being opened is waited for.
    """
    _process.threads.end_idle()
    with _process.opening:  # also by those who have stopped waiting for it
        pass
    stored = wait_stored(timeout)
    for there in _publishers():
        with _process.lock:
            if _process.publishers.pop(there.url, None) is None:
                continue  # another thread closes it
        _release_log_now(there)
        there.close()
        for outbox in there.outboxes:
            count_past(outbox.counts)
    return stored


def _release_log_now(there: Publisher) -> None:
    """As `release_log`, where there may be no loop and no new thread any more."""
    if not _is_last(there.url, there.log):
        return
    if isinstance(there.log, ClosesNow):
        there.log.close()
    else:
        there.portal.call(there.log.aclose())


def count_outside() -> None:
    """A record was published outside any run."""
    with _process.lock:
        _process.dropped_outside += 1


def count_past(counts: Counts) -> None:
    """Keep the counts of an outbox that goes."""
    with _process.lock:
        _process.past.stored += counts.stored
        _process.past.dropped += counts.dropped
        _process.past.failed += counts.failed


def _publishers() -> list[Publisher]:
    with _process.lock:
        return list(_process.publishers.values())


def _watch_exit() -> None:
    if not _process.watches_exit:
        _process.watches_exit = True
        atexit.register(_at_exit)
        if "multiprocessing.util" in sys.modules:
            # A child of multiprocessing leaves by os._exit, past atexit, but runs these.
            sys.modules["multiprocessing.util"].Finalize(None, _at_exit, exitpriority=10)


def _at_exit() -> None:
    close_publishers()


def _before_fork() -> None:
    # (Nobody opens a log meanwhile.)
    _forking.held = _process.opening.acquire(timeout=FORK_WAIT_S)
    _forking.paused = []
    for log, _ in list(_process.logs.values()):
        if isinstance(log, PausesForFork):
            if log.pause(FORK_WAIT_S):
                _forking.paused.append(log)
            else:
                logger.warning("a log is too busy to fork safely: use the spawn method instead")


def _after_fork_in_parent() -> None:
    for log in _forking.paused:
        log.resume()
    if _forking.held:
        _process.opening.release()


def _after_fork_in_child() -> None:
    global _process
    parent, _process = _process, Process()
    _abandoned.append(parent)
    for there in parent.publishers.values():
        for outbox in there.outboxes:
            # A producer of its own; it gets a publisher (and connections) with its first record.
            outbox.start_over(new_producer_id(), kick=_adopt)
            if there.url.startswith("memory:"):
                outbox.close(
                    LogUnavailable(
                        "a memory log cannot be reached from a forked process: use sqlite:"
                    )
                )


def _adopt(outbox: Outbox) -> None:
    try:
        there = publisher(outbox.url)
    except RunstreamError as error:
        # Not the publishing code's fault; the next record asks again.
        outbox.failed(error)
        outbox.forget_kick()
    else:
        there.adopt(outbox)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
