# SPDX-License-Identifier: Apache-2.0
"""Serving over standard input and output: for a client that starts its own server."""

import asyncio
import logging
import signal
from contextlib import suppress
from typing import Final

from waggle_fsstore.config import Settings
from waggle_fsstore.server.serving import Serving
from waggle_fsstore.server.stopping import deadline, stop_soon
from waggle_fsstore.server.tools import make_server

_log: Final = logging.getLogger(__name__)


def serve(settings: Settings, location: str | None = None) -> None:
    """Serve the store at a location until the client closes the input, SIGTERM or Ctrl-C.

    Others may serve the same store. Raises what :class:`Serving` raises.
    """
    serving = Serving(settings, location)
    try:
        asyncio.run(_serve(serving))
    finally:
        with deadline():  # No signal is listened to any more.
            serving.close()


async def _serve(serving: Serving) -> None:
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stop_soon(serving, grace=0)

    def handle(*_: object) -> None:
        # When the loop is closed, the end has come already: the input was closed.
        with suppress(RuntimeError):
            # Not from here: a signal comes between any two instructions.
            loop.call_soon_threadsafe(stop)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handle)
    _log.info("serving on standard input and output", extra={"fields": serving.fields})
    try:
        await make_server(serving.service).run_stdio_async()
    except* BrokenPipeError:
        _log.info("the client is gone")
