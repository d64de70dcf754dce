"""A local engine: loaded when it is first needed, run in threads, and stopped before the process ends.

The engines are native libraries that hold Python callbacks: a generation that still runs when the
interpreter goes away takes the process down with it. So every one is stopped first.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import importlib.util
import os
import threading
import time
import weakref
from collections.abc import Callable
from types import ModuleType
from typing import Any, Final, Generic, TypeAlias, TypeVar

from ..errors import ExtraMissing, InferenceFailed, InvalidInput, RunstreamError
from .assembly import Piece
from .hand_over import HandOver

E = TypeVar("E")
Load: TypeAlias = Callable[[Callable[[], bool]], E]

# Closing waits so long for running generations: a token of a large model, or a batch of a long prompt.
STOP_S_MAX: Final = 30.0


class LocalEngine(Generic[E]):
    """Generations of one engine. `load` makes it, in the thread of the first generation, and may ask
    meanwhile whether this is closed; `piece_of` says what is in one of its chunks.
    """

    def __init__(self, name: str, load: Load[E], piece_of: Callable[[Any], Piece | None]) -> None:
        self._state = _State(name, load, piece_of)
        # Also when the process ends, and when nobody holds the provider any more.
        self._finalizer = weakref.finalize(self, self._state.close)

    def begin(self, generate: Callable[[E, HandOver], None]) -> HandOver:
        """Run `generate` in a thread; what it raises comes out of the hand-over.

        Raises InferenceFailed if this is closed.
        """
        return self._state.begin(generate)

    async def load(self) -> None:
        """Load the engine now, in a thread. Raises InferenceFailed."""
        hand_over = self._state.begin(lambda _engine, _to: None)
        while await hand_over.take() is not None:
            pass

    async def aclose(self) -> None:
        """Stop all generations, wait for them and free the engine. Any number of times."""
        await asyncio.to_thread(self._finalizer)


class _State(Generic[E]):
    """What the threads hold: not the provider, which may be dropped while they still run."""

    def __init__(self, name: str, load: Load[E], piece_of: Callable[[Any], Piece | None]) -> None:
        self._name = name
        self._load: Load[E] | None = load
        self._piece_of = piece_of
        self._engine: E | None = None
        self._loading = threading.Lock()
        self._lock = threading.Lock()
        self._running: set[HandOver] = set()
        self._closed = False
        # The process that loaded it.
        self._pid = 0

    def begin(self, generate: Callable[[E, HandOver], None]) -> HandOver:
        if self._is_forked():
            raise InferenceFailed(
                f"{self._name} runs in the process that this one was forked from, and cannot run here: fork "
                "before the first generation, or start processes with `spawn`"
            )
        hand_over = HandOver(self._piece_of)
        with self._lock:
            if self._closed:
                raise self._closed_error()
            self._running.add(hand_over)
        hand_over.thread = threading.Thread(
            target=self._run,
            args=(generate, hand_over),
            name=f"runstream-{self._name}",
            daemon=True,  # closing stops it; a thread that can't be stopped must not keep the process
        )
        try:
            hand_over.thread.start()
        except RuntimeError as error:  # there can be no more threads
            with self._lock:
                self._running.discard(hand_over)
            raise InferenceFailed(f"{self._name}: {error}") from error
        return hand_over

    def close(self) -> None:
        if self._is_forked():
            return
        with self._lock:
            self._closed = True
            running = list(self._running)
        for hand_over in running:
            hand_over.leave()
            hand_over.end(self._closed_error())
        deadline = time.monotonic() + STOP_S_MAX
        for hand_over in running:
            if hand_over.thread is not threading.current_thread():  # the collector runs anywhere
                hand_over.finished.wait(max(0.0, deadline - time.monotonic()))
        self._engine = self._load = None

    def _run(self, generate: Callable[[E, HandOver], None], hand_over: HandOver) -> None:
        error: Exception | None = None
        try:
            engine = self._loaded()
            if not hand_over.left:
                generate(engine, hand_over)
            del engine  # whoever closes this frees it
        except RunstreamError as ours:
            error = ours
        except BaseException as theirs:  # noqa: BLE001 - a panic of a Rust engine is no Exception
            error = InferenceFailed(f"{self._name}: {str(theirs) or repr(theirs)}")
        hand_over.end(error)
        with self._lock:
            self._running.discard(hand_over)
        hand_over.finished.set()

    def _loaded(self) -> E:
        with self._loading:
            if self._engine is None:
                if self._load is None:
                    raise self._closed_error()
                engine = self._load(lambda: self._closed)
                if self._closed:  # nobody waits for this any more, and nobody would free it
                    raise self._closed_error()
                self._engine, self._pid = engine, os.getpid()
            return self._engine

    def _is_forked(self) -> bool:
        """Whether this is a fork of the process in which the engine runs: its threads are not here."""
        if self._engine is None or self._pid == os.getpid():
            return False
        # Freeing it would wait for those threads, so it is never freed here.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._engine))
        return True

    def _closed_error(self) -> InferenceFailed:
        return InferenceFailed(f"{self._name}: the provider was closed")


def check_sizes(options: object, *names: str) -> None:
    """Raises InvalidInput if an option that is given is less than 1."""
    for name in names:
        size = getattr(options, name)
        if size is not None and size < 1:
            raise InvalidInput(f"{name} is at least 1, not {size!r}")


def require_extra(module: str, extra: str) -> None:
    """Raises ExtraMissing if a module is not installed; does not import it."""
    if importlib.util.find_spec(module) is None:
        raise ExtraMissing(f"{module} is not installed: pip install 'runstream[{extra}]'")


def import_extra(module: str, extra: str) -> ModuleType:
    """Import a module that an extra brings; raises ExtraMissing."""
    require_extra(module, extra)
    return importlib.import_module(module)
