"""The ASGI app: it finds the route, asks who is there and what they may, and answers errors.

`create_app` gives an object that any ASGI server runs, also mounted under a prefix in another app. It
starts with its `lifespan`, or, where nobody runs that (a mounted app's is not run), with its first
request; then `stop()` should be called at the end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from .. import process
from ..errors import StreamingOff
from ..invocation import Target
from ..log import Log
from ..record import check_run_id
from .access import EVERYONE, Access, OpenAccess, Principal
from .answers import INTERNAL, UNAVAILABLE, Noting, problem_for, send_problem
from .bodies import Body, let_go
from .cors import with_cors
from .lease_watch import watch_leases
from .metrics import Metrics
from .packing import packing
from .request_log import PRINCIPAL, log_request
from .retention import enforce_retention
from .route import RUN_ID, Route
from .routes import ROUTES
from .routing import Router
from .site import ServerOptions, Site
from .tracing import Tracing, find_tracing
from .workflows import Workflows

# Work that goes on as long as the server does; it ends when it is cancelled.
Chore: TypeAlias = Callable[[Site], Coroutine[Any, Any, None]]

# A failed chore is started again after this time.
CHORE_RETRY_S: Final = 5.0
# While the log cannot be used, its operator hears why this often.
TROUBLE_S: Final = 10.0

logger = logging.getLogger(__name__)


class App:
    """The server as an ASGI app. Made by `create_app`; all of it runs in one event loop."""

    def __init__(
        self,
        log: Log | str,
        *,
        options: ServerOptions,
        access: Access,
        metrics: Metrics,
        workflows: Workflows,
        chores: tuple[Chore, ...],
        routes: tuple[Route, ...],
    ) -> None:
        self._log = log
        self._options = options
        self._access = access
        self._metrics = metrics
        self._workflows = workflows
        self._chores = chores
        self._router = Router(routes)
        # The app for a server that sends it nothing but HTTP requests: one step less for each.
        self.requests: Final = with_cors(self._answer, options.cors_origins)
        self._site: Site | None = None
        self._tracing: Tracing | None = None
        self._trouble_at = 0.0
        # Until when (the loop's time) requests may finish once the server is stopping.
        self._drain_until = 0.0
        self._starting = asyncio.Lock()
        self._working: set[asyncio.Task[None]] = set()
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    # --- its life --------------------------------------------------------------------------------

    async def start(self) -> Site:
        """Open the log, and begin what goes on in the background. Harmless when it has started.

        Raises:
            InvalidURL, NotALog, LogUnavailable: the log cannot be used.
        """
        async with self._starting:
            if self._site is None:
                self._tracing = find_tracing()
                log = self._log
                if isinstance(log, str):
                    log = await process.acquire_log_in_thread(log)
                self._site = Site(
                    log=log,
                    access=self._access,
                    options=self._options,
                    metrics=self._metrics,
                    workflows=self._workflows,
                )
                for chore in self._chores:
                    task = asyncio.create_task(_keep_doing(chore, self._site))
                    self._working.add(task)
            return self._site

    async def drain(self) -> bool:
        """Tell all who wait or follow that the server goes, and let requests finish.

        True when nothing is left; False `drain_s` seconds after the first call.
        """
        if self._site is None:
            return True
        is_first = not self._site.stopping.is_set()
        if is_first:
            self._site.stopping.set()
            self._drain_until = asyncio.get_running_loop().time() + self._options.drain_s
        try:
            async with asyncio.timeout_at(self._drain_until):
                await self._idle.wait()
        except TimeoutError:
            if is_first:
                logger.warning("requests that did not end in time: %d", self._active)
            return False
        return True

    async def stop(self) -> None:
        """Drain, end the background's work, and close the log (if it was given as a URL).

        Runs of workflows get `drain_s` seconds to finish, and are cancelled then.
        """
        await self.drain()
        async with self._starting:
            site, self._site = self._site, None
            for task in self._working:
                task.cancel()
            await asyncio.gather(*self._working, return_exceptions=True)
            self._working.clear()
            await self._workflows.drain(self._options.drain_s)
            if site is not None:
                await site.followers.aclose()
            if site is not None and isinstance(self._log, str):
                await process.release_log(self._log, site.log)

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncGenerator[None]:
        """Started and stopped with the block: for the lifespan of an app that this is mounted in."""
        await self.start()
        try:
            yield
        finally:
            await self.stop()

    # --- its requests ----------------------------------------------------------------------------

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.requests(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            # WebSockets: closing before accepting is answered with 403.
            await send({"type": "websocket.close"})

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        site = self._site or await self.start()
        self._active += 1
        self._idle.clear()
        began_s = time.perf_counter()
        noting = Noting(send)
        pattern = "none"
        parts: dict[str, str] = {}
        span = None if self._tracing is None else self._tracing.begin(scope)

        body = _http_2_body(scope, receive)
        try:
            route, parts = self._router.find(scope)
            pattern = route.pattern
            rest = await self._begin(
                site, route, parts, scope, body.receive if body else receive, noting
            )
            if rest is not None:
                await rest
        except asyncio.CancelledError:
            # It did not end in time, and is given up: `drain` has told.
            if not (site.owns_scopes and site.stopping.is_set()):
                raise
        except Exception as error:
            self._tell_operator(error, scope["method"], pattern)
            if noting.status:
                raise
            if body is not None:
                await body.discard()
            await send_problem(noting, error)
        finally:
            let_go(site, scope)
            self._active -= 1
            if not self._active:
                self._idle.set()
            status, seconds = noting.status, time.perf_counter() - began_s
            site.metrics.answered(pattern, scope["method"], status, seconds)
            log_request(scope, pattern, status, seconds)
            if span is not None:
                span.end(pattern, parts.get(RUN_ID), status)

    def _tell_operator(self, error: Exception, method: str, pattern: str) -> None:
        """What callers are not told: a mistake of ours, and (not for each of them) that the log is away."""
        problem = problem_for(error)[0]
        now = time.monotonic()
        if problem.code == INTERNAL:
            logger.error("%s %s failed", method, pattern, exc_info=error)
        elif problem.detail == UNAVAILABLE and now >= self._trouble_at:
            self._trouble_at = now + TROUBLE_S
            logger.warning("the log cannot be used: %s", error)

    def _begin(
        self,
        site: Site,
        route: Route,
        parts: dict[str, str],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> Awaitable[Awaitable[None] | None]:
        """Ask who is there and what they may; what is left is to be awaited, and then what that gives."""
        run_id = parts.get(RUN_ID)
        principal: Principal = EVERYONE
        if route.permission is not None:
            principal = site.access.identify(scope)
            scope[PRINCIPAL] = principal.name
            if run_id is not None:
                check_run_id(run_id)
            if not route.asks_itself:
                principal.require(route.permission, run_id)
        if route.streams and not self._options.streaming:
            raise StreamingOff("streaming is switched off at this server")
        if route.raw is not None:
            return route.raw(site, principal, run_id or "", scope, receive, send)
        scope["path_params"] = parts
        return _answer_cold(route, site, principal, scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except Exception as error:
            logger.exception("the server cannot start")
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})


def create_app(
    log: Log | str,
    *,
    options: ServerOptions | None = None,
    access: Access | None = None,
    metrics: Metrics | None = None,
    workflows: Iterable[Target] = (),
) -> App:
    """One ASGI app over a log (a URL, or one that is open and stays so).

    `workflows` are those that callers may start here; they need the log as a URL. Without an `access`
    everyone may do everything: fine on loopback, or behind something that asks.
    """
    return App(
        log,
        options=options or ServerOptions(),
        access=access or OpenAccess(),
        metrics=metrics or Metrics(),
        workflows=Workflows(workflows, url=log if isinstance(log, str) else None),
        chores=(watch_leases, enforce_retention),
        routes=ROUTES,
    )


def _http_2_body(scope: Scope, receive: Receive) -> Body | None:
    has_one = scope.get("http_version") == "2" and scope["method"] in {"POST", "PUT"}
    return Body(receive) if has_one else None


async def _answer_cold(
    route: Route, site: Site, principal: Principal, scope: Scope, receive: Receive, send: Send
) -> None:
    if route.cold is not None:
        response = await route.cold(site, principal, Request(scope, receive))
        await response(scope, receive, packing(site, scope, send))


async def _keep_doing(chore: Chore, site: Site) -> None:
    """A chore that fails is told of, and begun again: readiness and requests don't depend on it."""
    while True:
        try:
            await chore(site)
        except Exception:
            logger.exception("background work failed; it begins again")
        else:
            return
        await asyncio.sleep(CHORE_RETRY_S)
