# SPDX-License-Identifier: Apache-2.0
"""Serving over HTTP: ``/mcp`` for clients, the page, and the paths for monitoring."""

import asyncio
import errno
import logging
import os
import signal
import socket
from types import FrameType
from typing import Any, Final

import uvicorn
from anyio import CapacityLimiter, to_thread
from mcp.server.transport_security import TransportSecuritySettings
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from waggle_fsstore.config import Settings
from waggle_fsstore.domain.errors import SettingError
from waggle_fsstore.server.auth import Authentication
from waggle_fsstore.server.connections import Connection
from waggle_fsstore.server.figures import Survey
from waggle_fsstore.server.forwarding import Forwarder
from waggle_fsstore.server.hosts import HEALTH_PATHS, Guard, configured_hosts, url_host
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.log import LoopErrors
from waggle_fsstore.server.metrics import CONTENT_TYPE, CallDurations, Metrics
from waggle_fsstore.server.page.application import with_page
from waggle_fsstore.server.page.source import ServerSource
from waggle_fsstore.server.readiness import Readiness
from waggle_fsstore.server.sessions import Sessions
from waggle_fsstore.server.shutdown import run, schedule_stop
from waggle_fsstore.server.tools import make_server

# How long calls in progress may take after a signal.
_GRACE_S: Final = 3

# How long a connection may be idle. A client that uses it again just as the server closes it
# loses a request; so this is longer than clients and proxies keep theirs: 4 seconds to 2
# minutes, but 10 minutes for the load balancers of some clouds.
_KEEP_ALIVE_S: Final = 620

# The errors of accept after which asyncio waits for a second.
_OUT_OF_RESOURCES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log: Final = logging.getLogger(__name__)


def serve(settings: Settings, location: str | None = None, *, may_init: bool = False) -> None:
    """Serve the store at a location until SIGTERM or Ctrl-C.

    Takes the port first and then the store: a server that cannot have both changes nothing.
    Raises :class:`SettingError`, including for a taken port, and what :class:`ServiceHost`
    raises.
    """
    with listen(settings) as listener:
        host = ServiceHost(settings, location, is_http=True, may_init=may_init)
        run(host, lambda: _serve(host, listener, settings))


def listen(settings: Settings) -> socket.socket:
    """Return a socket that listens at the configured address.

    Raises :class:`SettingError` if that fails, or if the address is not a loopback address
    and no allowed hosts or no tokens are configured, or if programs have rights that need one.
    """
    where = f"{settings.host}:{settings.port}"
    if not settings.is_loopback and not configured_hosts(settings):
        raise SettingError(
            "WAGGLE_ALLOWED_HOSTS",
            "must list the host names by which clients call this server: WAGGLE_LISTEN_ADDR, "
            f"{where}, is not a loopback address",
        )
    has_token = settings.requires_token or settings.allow_anonymous
    if not settings.is_loopback and not has_token:
        raise SettingError(
            "WAGGLE_AUTH_TOKEN",
            f"must be a token, which clients then send: WAGGLE_LISTEN_ADDR, {where}, is not a "
            "loopback address; make one with 'openssl rand -hex 32', or set "
            "WAGGLE_ALLOW_ANONYMOUS=1 to let every program that reaches the server use it",
        )
    _check_power(settings)
    return bind(settings)


def bind(settings: Settings) -> socket.socket:
    """Return a socket that listens at the configured address. Raises :class:`SettingError`."""
    where = f"{settings.host}:{settings.port}"
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        # strerror would name the address again, in another form.
        problem = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        reason = (
            f"cannot listen on {where}: {problem}; stop the program that uses this address, "
            "or choose another one"
        )
        raise SettingError("WAGGLE_LISTEN_ADDR", reason) from None
    listener = _Listener(fileno=listener.detach())
    # Connections inherit TCP_NODELAY. Without it, each answer waits 40 ms for the client's
    # next packet; asyncio sets it only on a socket that names its protocol, unlike this one.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _check_power(settings: Settings) -> None:
    """Raise :class:`SettingError` if any user of this machine could act as that of the server."""
    execution = settings.execution
    variable = ""
    if execution.mode == "unisolated":
        variable = "WAGGLE_EXECUTION=unisolated"
    elif execution.network == "host" and execution.mode != "off":
        variable = "WAGGLE_NETWORK=host"
    if variable and not settings.requires_token and not settings.allow_anonymous:
        raise SettingError(
            "WAGGLE_AUTH_TOKEN",
            f"must be a token, because of {variable}: every user of this machine, and every "
            "program of an environment, could otherwise call this server over HTTP; make one with "
            "'openssl rand -hex 32'",
        )


class _Listener(socket.socket):
    """Makes asyncio retry once a second while no descriptors are left for connections.

    asyncio's accept loop does not stop at such an error but fails up to ``backlog`` times in
    a row, and schedules a retry for each failure: soon the server would do nothing else. See
    https://github.com/python/cpython/issues/151615.
    """

    _has_failed = False

    def accept(self) -> tuple[socket.socket, Any]:
        """See socket; after a failure, report once that no connection is waiting."""
        if self._has_failed:
            self._has_failed = False
            raise BlockingIOError
        try:
            return super().accept()
        except OSError as error:
            self._has_failed = error.errno in _OUT_OF_RESOURCES
            raise


async def _serve(host: ServiceHost, listener: socket.socket, settings: Settings) -> None:
    asyncio.get_running_loop().set_exception_handler(LoopErrors())
    server = _Server(application(host, settings), host)
    url = f"http://{url_host(settings, listener.getsockname()[1])}/mcp"
    _log.info("serving on %s", url, extra={"fields": host.log_fields})
    _log.info("next: add this URL to an MCP client; Ctrl-C ends the server, and destroys nothing")
    await server.serve(sockets=[listener])


def server_config(app: ASGIApp) -> uvicorn.Config:
    """Return how uvicorn serves an application."""
    return uvicorn.Config(
        app,
        http=Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        # The address of a peer is that of its connection, and not what a header says.
        proxy_headers=False,
        ws="none",
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )


class _Server(uvicorn.Server):
    """Ends the process after a signal, even if a call never returns."""

    def __init__(self, app: ASGIApp, host: ServiceHost) -> None:
        super().__init__(server_config(app))
        self._host = host
        self._loop = asyncio.get_running_loop()
        # Uvicorn raises the signals that it caught again when it is done. These handlers
        # receive them: the process is ending already.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn."""
        if not self.should_exit:
            # The loop does the work: a signal handler may run between any two instructions.
            self._loop.call_soon_threadsafe(self._stop)
        super().handle_exit(sig, frame)

    def _stop(self) -> None:
        schedule_stop(self._host, grace_s=_GRACE_S + 1)


def application(host: ServiceHost, settings: Settings) -> ASGIApp:
    """Return the ASGI application of an open host."""
    durations = CallDurations()
    server = make_server(
        host.service,
        lambda: host.is_interrupted,
        default_timeout=settings.execution.default_timeout,
        max_timeout=settings.execution.max_timeout,
        forwarder=Forwarder(settings.cluster_token),
        on_end=durations.add,
    )
    # The guard checks hosts and origins, for all paths.
    unguarded = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = server.streamable_http_app(transport_security=unguarded)
    served: ASGIApp = (sessions := Sessions(app, server.session_manager.app))
    readiness = Readiness(host)
    survey = Survey(host, readiness)
    metrics = Metrics(
        host.service,
        host.repository,
        survey,
        sessions,
        durations,
        settings.max_environments,
    )
    app.router.routes += _monitoring(readiness, metrics)
    cluster_token = settings.cluster_token
    authentication: Authentication | None = None
    if settings.tokens or cluster_token:
        served = authentication = Authentication(
            served,
            settings.tokens,
            cluster_token=cluster_token.received if cluster_token else None,
            is_optional=not settings.requires_token,
        )
    # Around the authentication: a browser asks for permission without a token.
    served = _with_cors(served, settings) if settings.allowed_origins else served
    source = ServerSource(host, survey, settings.max_environments)
    served = with_page(served, source, authentication if settings.requires_token else None)
    return _without_final_slash(Guard(served, settings))


def _with_cors(app: ASGIApp, settings: Settings) -> ASGIApp:
    """Return an application that web pages of the allowed origins may call."""
    return CORSMiddleware(
        app,
        allow_origins=settings.allowed_origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["Mcp-Session-Id", "MCP-Protocol-Version"],
    )


def _monitoring(readiness: Readiness, metrics: Metrics) -> list[Route]:
    """Return the paths for monitoring.

    Each has a thread reserved for it, and waits for no call that occupies all other threads.
    """
    probe_thread, metrics_thread = CapacityLimiter(1), CapacityLimiter(1)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        is_ready, report = await to_thread.run_sync(readiness.report, limiter=probe_thread)
        return JSONResponse(report, status_code=200 if is_ready else 503)

    async def show_metrics(_: Request) -> Response:
        text = await to_thread.run_sync(metrics.text, limiter=metrics_thread)
        return Response(text, headers={"Content-Type": CONTENT_TYPE})

    return [
        Route("/healthz", healthz),
        Route("/readyz", readyz),
        Route("/metrics", show_metrics),
    ]


def _without_final_slash(app: ASGIApp) -> ASGIApp:
    """Return an application for which ``/mcp/`` is ``/mcp``.

    A redirect would have to name the server as its client does, which may be behind a proxy.
    """

    async def route(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").removesuffix("/")
        if path in ("/mcp", "/metrics", *HEALTH_PATHS):
            scope = {**scope, "path": path}
        await app(scope, receive, send)

    return route
