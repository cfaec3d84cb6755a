# SPDX-License-Identifier: Apache-2.0
"""Serving over standard input and output: for a client that starts a server for itself."""

import logging
from typing import Final

from waggle_fsstore.config import Settings
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.shutdown import run
from waggle_fsstore.server.tools import make_server

_log: Final = logging.getLogger(__name__)


def serve(settings: Settings, location: str | None = None, *, may_init: bool = False) -> None:
    """Serve the store at a location until the client closes the input, SIGTERM or Ctrl-C.

    Other servers may serve the same store. Raises what :class:`ServiceHost` raises.
    """
    host = ServiceHost(settings, location, may_init=may_init)
    run(host, lambda: _serve(host))


async def _serve(host: ServiceHost) -> None:
    _log.info("serving on standard input and output", extra={"fields": host.log_fields})
    try:
        await make_server(host.service).run_stdio_async()
    except* BrokenPipeError:
        _log.info("the client is gone")
