# SPDX-License-Identifier: Apache-2.0
"""Serving over HTTP: ``/mcp``, and ``/healthz`` and ``/readyz`` for whoever watches."""

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Iterable
from types import FrameType
from typing import Any, Final

import uvicorn
from anyio import CapacityLimiter, to_thread
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from waggle_fsstore.config import Settings
from waggle_fsstore.domain.errors import SettingError
from waggle_fsstore.server.json_log import LoopErrors
from waggle_fsstore.server.lifecycle import Serving
from waggle_fsstore.server.readiness import readiness
from waggle_fsstore.server.shutdown import run, stop_soon
from waggle_fsstore.server.tools import make_server

_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")

# From a signal on: how long calls may take to be answered (seconds).
_GRACE: Final = 3

# What asyncio waits a second for.
_NO_MORE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log: Final = logging.getLogger(__name__)


def serve(settings: Settings, location: str | None = None) -> None:
    """Serve the store at a location until SIGTERM or Ctrl-C.

    Takes the port, then the store: who cannot have both changes nothing. Raises
    :class:`SettingError`, also for a port that is taken, and what :class:`Serving` raises.
    """
    with listen(settings) as listener:
        serving = Serving(settings, location, is_http=True)
        run(serving, lambda: _serve(serving, listener, settings))


def listen(settings: Settings) -> socket.socket:
    """A socket that listens where the settings say.

    Raises :class:`SettingError` if it cannot, or if others could reach it and nobody said by
    which names they call.
    """
    where = f"{settings.host}:{settings.port}"
    if not settings.is_loopback and not settings.allowed_hosts:
        raise SettingError(
            "WAGGLE_ALLOWED_HOSTS",
            "must say by which names clients call this server: WAGGLE_LISTEN_ADDR, "
            f"{where}, is not on the loopback interface, and who reaches it may use it",
        )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family)
    except OSError as error:
        # Not strerror: that says the address again, in another form.
        problem = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        reason = f"cannot listen on {where}: {problem}; stop what listens there, or set this"
        raise SettingError("WAGGLE_LISTEN_ADDR", reason) from None
    listener = _Listener(fileno=listener.detach())
    # Connections inherit it. Without it, each answer waits 40 ms for the client's next packet;
    # asyncio sets it only where a socket names its protocol, which this one does not.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


class _Listener(socket.socket):
    """Has asyncio try again once a second, when there are no descriptors for connections.

    It goes on to accept for as many as may wait, and each failure begins a new try in a
    second: before long it would do nothing else.
    """

    _has_failed = False

    def accept(self) -> tuple[socket.socket, Any]:
        """See socket; after a failure, say once that nobody waits."""
        if self._has_failed:
            self._has_failed = False
            raise BlockingIOError
        try:
            return super().accept()
        except OSError as error:
            self._has_failed = error.errno in _NO_MORE
            raise


async def _serve(serving: Serving, listener: socket.socket, settings: Settings) -> None:
    asyncio.get_running_loop().set_exception_handler(LoopErrors())
    server = _Server(application(serving, settings), serving)
    address, port = listener.getsockname()[:2]
    address = f"[{address}]" if ":" in address else address
    fields = {"fields": serving.fields}
    _log.info("serving on http://%s:%s/mcp", address, port, extra=fields)
    await server.serve(sockets=[listener])


class _Server(uvicorn.Server):
    """Has the process end when a signal comes, also where a call goes on and on."""

    def __init__(self, app: ASGIApp, serving: Serving) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                timeout_graceful_shutdown=_GRACE,
            )
        )
        self._serving = serving
        self._loop = asyncio.get_running_loop()
        # Uvicorn raises what it caught once more when it is done: by then all is well.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self.handle_exit)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn."""
        if not self.should_exit:
            # Not from here: a signal comes between any two instructions.
            self._loop.call_soon_threadsafe(self._stop)
        super().handle_exit(sig, frame)

    def _stop(self) -> None:
        stop_soon(self._serving, grace=_GRACE + 1)


def application(serving: Serving, settings: Settings) -> ASGIApp:
    """The ASGI application over an open store."""
    # Of its own: who asks does not wait for calls that take all other threads.
    one_at_a_time = CapacityLimiter(1)

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        is_ready, report = await to_thread.run_sync(readiness, serving, limiter=one_at_a_time)
        return JSONResponse(report, status_code=200 if is_ready else 503)

    security = security_of(settings)
    app = make_server(serving.service).streamable_http_app(transport_security=security)
    app.router.routes += [Route("/healthz", healthz), Route("/readyz", readyz)]
    return _Guard(app, security)


def security_of(settings: Settings) -> TransportSecuritySettings:
    """Who may call: by the names of the loopback interface, and those that are allowed."""
    hosts = [*_LOOPBACK, *map(_in_a_url, settings.allowed_hosts)]
    return TransportSecuritySettings(
        allowed_hosts=list(_with_any_port(hosts)),
        allowed_origins=[
            f"{scheme}://{host}" for scheme in ("http", "https") for host in _with_any_port(hosts)
        ],
    )


def _with_any_port(hosts: Iterable[str]) -> Iterable[str]:
    for host in hosts:
        yield host
        if not host.rpartition(":")[2].isdigit():
            yield f"{host}:*"


def _in_a_url(host: str) -> str:
    """An address of IPv6 stands in brackets there."""
    return f"[{host}]" if host.count(":") > 1 and not host.startswith("[") else host


class _Guard:
    """Refuses who calls by a name that is not allowed: a web page that a browser was led to.

    The SDK does so for its own path only (https://en.wikipedia.org/wiki/DNS_rebinding).
    """

    def __init__(self, app: ASGIApp, security: TransportSecuritySettings) -> None:
        self._app = app
        self._check = TransportSecurityMiddleware(security)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            refusal = await self._check.validate_request(Request(scope))
            if refusal is not None:
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)
