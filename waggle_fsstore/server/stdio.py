# SPDX-License-Identifier: Apache-2.0
"""Serving over standard input and output: for a client that starts a server for itself."""

import logging
from collections.abc import AsyncIterable
from typing import Final, Protocol

from anyio import create_memory_object_stream, create_task_group
from anyio.streams.memory import MemoryObjectSendStream
from mcp.server.stdio import stdio_server
from mcp.shared.message import SessionMessage
from mcp.types import INVALID_REQUEST, PARSE_ERROR, ErrorData, JSONRPCError
from pydantic import ValidationError

from waggle_fsstore.config import Settings
from waggle_fsstore.server.forwarding import Forwarder
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.shutdown import run
from waggle_fsstore.server.tools import make_server

_log: Final = logging.getLogger(__name__)


class WriteStream(Protocol):
    """Where answers go."""

    async def send(self, item: SessionMessage, /) -> None:
        """Send a message to the client."""


def serve(settings: Settings, location: str | None = None, *, may_init: bool = False) -> None:
    """Serve the store at a location until the client closes the input, SIGTERM or Ctrl-C.

    Other servers may serve the same store. Raises what :class:`ServiceHost` raises.
    """
    host = ServiceHost(settings, location, may_init=may_init)
    run(host, lambda: _serve(host, settings))


async def _serve(host: ServiceHost, settings: Settings) -> None:
    _log.info("serving on standard input and output", extra={"fields": host.log_fields})
    server = make_server(
        host.service,
        default_timeout=settings.execution.default_timeout,
        max_timeout=settings.execution.max_timeout,
        forwarder=Forwarder(settings.cluster_token),
    )
    server.streamable_http_app()  # Makes the low-level server accessible.
    low_level = server.session_manager.app
    options = low_level.create_initialization_options()
    try:
        async with stdio_server() as (lines, answers), lines, create_task_group() as tasks:
            sending, receiving = create_memory_object_stream[SessionMessage | Exception]()
            with sending, receiving:
                tasks.start_soon(_relay, lines, sending, answers)
                await low_level.run(receiving, answers, options)
                tasks.cancel_scope.cancel()
    except* BrokenPipeError:
        _log.info("the client is gone")


async def _relay(
    lines: AsyncIterable[SessionMessage | Exception],
    messages: MemoryObjectSendStream[SessionMessage | Exception],
    answers: WriteStream,
) -> None:
    """Pass on the messages, and answer the lines that are none, which the SDK would drop."""
    async with messages:
        async for line in lines:
            error = _error(line) if isinstance(line, ValidationError) else None
            if error is not None:
                await answers.send(SessionMessage(error))
            elif isinstance(line, SessionMessage):
                await messages.send(line)


def _error(problem: ValidationError) -> JSONRPCError | None:
    """Return the answer to a line that is no message, ``None`` for an empty one."""
    detail = problem.errors(include_url=False)[0]
    if not str(detail["input"]).strip():
        return None
    error = ErrorData(code=INVALID_REQUEST, message="Invalid Request: not a JSON-RPC message")
    if detail["type"] == "json_invalid":
        error = ErrorData(code=PARSE_ERROR, message="Parse error: the line is not JSON")
    return JSONRPCError(jsonrpc="2.0", id=None, error=error)
