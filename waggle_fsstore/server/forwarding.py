# SPDX-License-Identifier: Apache-2.0
"""Forwarding: calls for an environment of another host, made at the server of that host.

A call is sent once, on a new connection: one that may have been executed is not repeated.
"""

import ssl
from functools import cached_property
from http import HTTPStatus
from socket import gaierror
from typing import Any, Final
from urllib.parse import quote

import httpx2
from anyio import CapacityLimiter
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from mcp.types import (
    CONNECTION_CLOSED,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    Implementation,
    TextContent,
)
from mcp.types.version import LATEST_MODERN_VERSION
from pydantic import BaseModel

from waggle_fsstore import __version__
from waggle_fsstore.domain.access_token import ClusterToken
from waggle_fsstore.domain.errors import HostUnreachableError, OtherHostError
from waggle_fsstore.server.auth import ACTOR_HEADER, is_forwarded
from waggle_fsstore.server.calls import actor_of

_CONNECT_TIMEOUT_S: Final = 5.0

# A server that works on a call sends something every 15 seconds.
_SILENCE_TIMEOUT_S: Final = 60.0

# How many calls are at other servers at once. Each takes a descriptor.
_MAX_CALLS: Final = 200

_ADVICE: Final = (
    ", or have the operator set WAGGLE_CLUSTER_TOKEN on both servers, which then pass calls on"
)
_NOT_DONE: Final = "nothing was done"
_MAYBE_DONE: Final = "the call may have been executed"

#: What to say about a response, by its status. Any other one is named.
_REFUSALS: Final[dict[int, str]] = {
    HTTPStatus.UNAUTHORIZED: "its server does not accept the token: set the same "
    "WAGGLE_CLUSTER_TOKEN on all servers",
    HTTPStatus.MISDIRECTED_REQUEST: "its server does not know the name by which it was called: "
    "check WAGGLE_HOST_URL there",
}

_ME: Final = Implementation(name="waggle", version=__version__)


class _StatusError(Exception):
    """The server has answered with a status that no answer of the protocol has."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(f"HTTP status {status}")


class Forwarder:
    """Makes calls of tools at the servers of other hosts, none without a cluster token."""

    def __init__(self, token: ClusterToken | None) -> None:
        self._token = token
        self._limiter = CapacityLimiter(_MAX_CALLS)

    async def forward(
        self,
        ctx: Context[Any],
        params: CallToolRequestParams,
        error: OtherHostError,
        result_type: type[BaseModel],
    ) -> CallToolResult:
        """Make a call that has failed with an error at the host that the error names.

        Progress is reported to the client. If the task is cancelled, so is the call. Raises that
        error if the call must not be forwarded, as one that was, and
        :class:`HostUnreachableError`.
        """
        request = ctx.request_context
        if not error.host or is_forwarded(request.request):
            raise error
        if self._token is None:
            reason = f"{error.reason}{_ADVICE}"
            raise OtherHostError(error.provider, reason, error.host, error.url)
        environment_id = str((params.arguments or {}).get("environment_id"))
        if not error.url:
            reason = f"it has not said where: set WAGGLE_HOST_URL on its server; {_NOT_DONE}"
            raise HostUnreachableError(environment_id, error.host, reason)
        headers = {
            "Authorization": f"Bearer {self._token.secret}",
            ACTOR_HEADER: quote(actor_of(request), safe=""),
        }
        try:
            async with self._limiter:
                made = await self._call(ctx, f"{error.url}/mcp", headers, params)
            if not made.is_error:
                result_type.model_validate(made.structured_content)
        except Exception as failure:  # noqa: BLE001  # The SDK lets through errors of many kinds.
            cause = _cause(failure)
            raise HostUnreachableError(environment_id, error.host, _reason(cause)) from cause
        if made.is_error and made.content == [TextContent(text=f"Unknown tool: {params.name}")]:
            reason = f"its server has no such tool, as where no program can be run; {_NOT_DONE}"
            raise HostUnreachableError(environment_id, error.host, reason)
        return made

    async def _call(
        self, ctx: Context[Any], url: str, headers: dict[str, str], params: CallToolRequestParams
    ) -> CallToolResult:
        async with (
            httpx2.AsyncClient(
                headers=headers,
                timeout=httpx2.Timeout(_SILENCE_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
                event_hooks={"response": [_check_status]},
                verify=self._tls,
                # The token goes to the host itself, and through no proxy.
                trust_env=False,
            ) as sender,
            Client(
                streamable_http_client(url, http_client=sender, max_sse_event_size=None),
                client_info=_ME,
                # Its first request is the call, and the end of its response cancels that.
                mode=LATEST_MODERN_VERSION,
                cache=None,
            ) as client,
        ):
            # Unlike its call_tool, this asks for no list of tools, and sends nothing twice.
            return await client.session.send_request(
                CallToolRequest(params=params),
                CallToolResult,
                progress_callback=ctx.report_progress,
            )

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        """What certificates are trusted: those of the system, or of ``SSL_CERT_FILE``."""
        return ssl.create_default_context()


async def _check_status(response: httpx2.Response) -> None:
    """Follow no redirect: the token is for one server."""
    if response.status_code != HTTPStatus.OK:
        raise _StatusError(response.status_code)


def _cause(error: BaseException) -> BaseException:
    """Return the first error in a group of errors, or the error itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _why_no_connection(error: BaseException | None) -> str:
    while error is not None:
        if isinstance(error, gaierror):
            return "the name in its WAGGLE_HOST_URL is not known here"
        if isinstance(error, ssl.SSLError):
            return "its server has no certificate that is trusted here"
        error = error.__cause__ or error.__context__
    return "its server accepts no connection"


def _reason(cause: BaseException) -> str:
    """Return what went wrong, without an address and without what the other server wrote."""
    match cause:
        case httpx2.ConnectTimeout():
            return f"no connection within {_CONNECT_TIMEOUT_S:g} s; {_NOT_DONE}"
        case httpx2.ConnectError():
            return f"{_why_no_connection(cause)}; {_NOT_DONE}"
        case _StatusError():
            text = f"its server answered with HTTP status {cause.status}"
            is_done = cause.status >= HTTPStatus.INTERNAL_SERVER_ERROR
            return f"{_REFUSALS.get(cause.status, text)}; {_MAYBE_DONE if is_done else _NOT_DONE}"
        case httpx2.ReadTimeout():
            return f"its server was silent for {_SILENCE_TIMEOUT_S:g} s; {_MAYBE_DONE}"
        case httpx2.TransportError():
            return f"the connection was lost; {_MAYBE_DONE}"
        case MCPError() if cause.code == CONNECTION_CLOSED:
            return f"the connection was lost; {_MAYBE_DONE}"
        case _:
            return f"its server gave no answer of the protocol; {_MAYBE_DONE}"
