# SPDX-License-Identifier: Apache-2.0
"""Serving the page alone: for a store without a server, on this machine, until Ctrl-C."""

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from types import FrameType

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from waggle_fsstore.config import Settings
from waggle_fsstore.domain.errors import SettingError
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.server.auth import Authentication
from waggle_fsstore.server.hosts import Guard, url_host
from waggle_fsstore.server.http import bind, server_config
from waggle_fsstore.server.page.application import with_page
from waggle_fsstore.server.page.source import Source


def serve_page(
    store: TransactionalRepository, settings: Settings, port: int, show: Callable[[str], object]
) -> None:
    """Serve the page of a store until Ctrl-C or SIGTERM; ``show`` gets its URL.

    Takes no lock and changes nothing: neither reconciles nor removes what has expired. Port 0 is
    any that is free. Raises :class:`SettingError` for an address beyond the loopback interface and
    for a port that is taken.
    """
    if not settings.is_loopback:
        raise SettingError(
            "WAGGLE_LISTEN_ADDR",
            f"{settings.host} is not a loopback address: 'ui' serves this machine only; unset the "
            "variable, or use 'serve', which has the page too",
        )
    settings = replace(settings, port=port)
    source = Source(store)
    with bind(settings) as listener:
        server = _Server(application(source, settings), source)
        # Uvicorn raises the signals that it caught again when it is done.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, server.handle_exit)
        show(f"http://{url_host(settings, listener.getsockname()[1])}/")
        asyncio.run(server.serve(sockets=[listener]))


def application(source: Source, settings: Settings) -> ASGIApp:
    """Return the page with the checks of a server, and nothing else."""
    rest: ASGIApp = PlainTextResponse("this is the page of a store: see /", status_code=404)
    authentication = Authentication(rest, settings.tokens) if settings.tokens else None
    return Guard(with_page(authentication or rest, source, authentication), settings)


class _Server(uvicorn.Server):
    """Ends the streams of viewers with the first signal."""

    def __init__(self, app: ASGIApp, source: Source) -> None:
        super().__init__(server_config(app))
        self._source = source

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """See uvicorn."""
        self._source.end()
        super().handle_exit(sig, frame)
