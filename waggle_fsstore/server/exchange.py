# SPDX-License-Identifier: Apache-2.0
"""One request over HTTP and its response: JSON, or a stream of events if it takes long."""

import json
import logging
from collections.abc import Awaitable, Mapping
from typing import Any, Final

from anyio import CancelScope, Event, Lock, create_task_group, sleep
from mcp.server.streamable_http import REQUEST_CANCELLED
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import NoBackChannelError
from mcp.shared.jsonrpc_dispatcher import (
    handler_exception_to_error_data,
    progress_token_from_params,
)
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext
from mcp.types import INTERNAL_ERROR, ErrorData, JSONRPCRequest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

# A comment is sent this often while a request is in progress. Proxies and clients give up on
# a response that is silent for a minute, or longer.
_PING_INTERVAL_S: Final = 15.0

_STREAM_HEADERS: Final = (
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
)

_CANCELLED: Final = ErrorData(code=REQUEST_CANCELLED, message="Request cancelled")
_FAILED: Final = ErrorData(code=INTERNAL_ERROR, message="Internal server error")

_log: Final = logging.getLogger(__name__)


class Exchange:
    """A request and its response; a ``DispatchContext`` of the SDK.

    Work continues if the client is gone: a lost connection is no cancellation.
    """

    can_send_request: Final = False

    def __init__(self, request: Request, message: JSONRPCRequest, send: Send) -> None:
        self.request_id = message.id
        self.message_metadata = ServerMessageMetadata(request_context=request)
        self.transport = TransportContext(
            kind="streamable-http", can_send_request=False, headers=request.headers
        )
        self.cancel_requested = Event()
        self._progress_token = progress_token_from_params(message.params)
        self._scope = CancelScope()
        self._request = request
        self._send = send
        self._is_stream = False
        # Held while an event is sent.
        self._lock = Lock()

    def cancel(self) -> None:
        """End the work, as the client asked."""
        self.cancel_requested.set()
        self._scope.cancel()

    async def run(self, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
        """Return the JSON-RPC response to the request: the result of the work, or its error."""
        outcome: dict[str, Any] | ErrorData = _CANCELLED
        async with create_task_group() as tasks:
            tasks.start_soon(self._ping)
            with self._scope:
                outcome = await _outcome(work)
            tasks.cancel_scope.cancel()
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": self.request_id}
        if isinstance(outcome, ErrorData):
            return answer | {"error": outcome.model_dump(exclude_none=True)}
        return answer | {"result": outcome}

    async def respond(self, answer: dict[str, Any], headers: Mapping[str, str]) -> None:
        """Send the response of :meth:`run`."""
        if self._is_stream:
            await self._send_event(answer, is_last=True)
            return
        response = Response(json.dumps(answer), headers=headers, media_type="application/json")
        await response(self._request.scope, self._request.receive, self._send)

    async def send_raw_request(
        self,
        method: str,
        params: Mapping[str, Any] | None,  # noqa: ARG002
        opts: CallOptions | None = None,  # noqa: ARG002
    ) -> dict[str, Any]:
        """Refuse: the client's reply might reach another process."""
        raise NoBackChannelError(method)

    async def notify(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None = None,  # noqa: ARG002
    ) -> None:
        """Send a notification to the client, ahead of the response."""
        await self._send_event({"jsonrpc": "2.0", "method": method, "params": params or {}})

    async def progress(
        self, progress: float, total: float | None = None, message: str | None = None
    ) -> None:
        """Report progress, if the client asked for that."""
        if self._progress_token is None:
            return
        params = {"progressToken": self._progress_token, "progress": progress}
        params |= {} if total is None else {"total": total}
        params |= {} if message is None else {"message": message}
        await self.notify("notifications/progress", params)

    async def _ping(self) -> None:
        while True:
            await sleep(_PING_INTERVAL_S)
            await self._send_chunk(b": ping\r\n\r\n")

    async def _send_event(self, message: dict[str, Any], *, is_last: bool = False) -> None:
        text = f"event: message\r\ndata: {json.dumps(message)}\r\n\r\n"
        await self._send_chunk(text.encode(), is_last=is_last)

    async def _send_chunk(self, chunk: bytes, *, is_last: bool = False) -> None:
        async with self._lock:
            if not self._is_stream:
                headers = list(_STREAM_HEADERS)
                await self._send({"type": "http.response.start", "status": 200, "headers": headers})
                self._is_stream = True
            await self._send(
                {"type": "http.response.body", "body": chunk, "more_body": not is_last}
            )


async def _outcome(work: Awaitable[dict[str, Any]]) -> dict[str, Any] | ErrorData:
    try:
        return await work
    except Exception as error:  # noqa: BLE001  # A bug ends one call, and is logged.
        known = handler_exception_to_error_data(error)
        if known is None:
            _log.exception("a request failed")
        return known or _FAILED
