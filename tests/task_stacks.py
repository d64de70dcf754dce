"""What every asyncio task of this process waits for: what the stacks of threads do not say of a hung test."""

from __future__ import annotations

import asyncio
import gc
import traceback
from collections.abc import Iterator
from typing import Any


def task_stacks() -> str:
    """The tasks of all event loops, whichever thread they run in, each with its chain of awaits."""
    # (By its type: a proxy of what is gone fails when it is asked for its class.)
    loops = [one for one in gc.get_objects() if issubclass(type(one), asyncio.AbstractEventLoop)]
    lines: list[str] = []
    for loop in loops:
        for task in asyncio.all_tasks(loop):
            lines.append(f"Task {task.get_name()} of {loop!r}:")
            frames = [(frame, frame.f_lineno) for frame in _frames(task.get_coro())]
            lines.append("".join(traceback.StackSummary.extract(frames).format()))
    return "\n".join(lines) or "no asyncio task in any loop\n"


def _frames(awaited: Any) -> Iterator[Any]:
    """The frame of a coroutine, of what that awaits, and so on (as far as Python tells)."""
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        yield frame
        awaited = awaited.cr_await
