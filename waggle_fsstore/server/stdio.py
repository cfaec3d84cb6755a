# SPDX-License-Identifier: Apache-2.0
"""Serving over standard input and output: for a client that starts its own server."""

import logging
from typing import Final

from waggle_fsstore.config import Settings
from waggle_fsstore.server.lifecycle import Serving
from waggle_fsstore.server.shutdown import run
from waggle_fsstore.server.tools import make_server

_log: Final = logging.getLogger(__name__)


def serve(settings: Settings, location: str | None = None) -> None:
    """Serve the store at a location until the client closes the input, SIGTERM or Ctrl-C.

    Others may serve the same store. Raises what :class:`Serving` raises.
    """
    serving = Serving(settings, location)
    run(serving, lambda: _serve(serving))


async def _serve(serving: Serving) -> None:
    _log.info("serving on standard input and output", extra={"fields": serving.fields})
    try:
        await make_server(serving.service).run_stdio_async()
    except* BrokenPipeError:
        _log.info("the client is gone")
