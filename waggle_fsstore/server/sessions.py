# SPDX-License-Identifier: Apache-2.0
"""Sessions over HTTP: their ids say what the handshake agreed on, so the server keeps none."""

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections import OrderedDict
from http import HTTPStatus
from secrets import token_urlsafe
from typing import Any, Final, NamedTuple, Self

from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_one
from mcp.server.streamable_http import MCP_SESSION_ID_HEADER, check_accept_headers
from mcp.server.transport_security import DEFAULT_MAX_REQUEST_BODY_SIZE, RequestBodyLimitMiddleware
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp.shared.jsonrpc_dispatcher import cancelled_request_id_from_params
from mcp.types import (
    INVALID_REQUEST,
    PARSE_ERROR,
    ErrorData,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCNotification,
    JSONRPCRequest,
    RequestId,
    jsonrpc_message_adapter,
)
from mcp.types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from waggle_fsstore.server.auth import caller_of
from waggle_fsstore.server.exchange import Exchange

#: The number of characters of a client's name that an id carries.
_MAX_NAME_LENGTH: Final = 100

_NONCE_BYTES: Final = 16

#: The number of ended sessions to remember, about 1 MB. Older ones work again.
_MAX_ENDED: Final = 10_000

_ID: Final = re.compile(
    r"(?P<version>[\d-]{10})\.(?P<name>[\w-]*)\.(?P<nonce>[\w-]{22})(?:\.(?P<caller>[\w.-]+))?",
    re.ASCII,
)


class Session(NamedTuple):
    """What the handshake agreed on; as text, the id of the session.

    An id proves nothing but that the client knows it: the name in it is the client's own claim,
    as in the handshake. The caller, which is the name of the token that began the session, is
    compared with that of each request.
    """

    version: str
    name: str
    nonce: str
    caller: str = ""

    @classmethod
    def begin(cls, connection: Connection) -> Self:
        """Return a session of a connection that performed the handshake."""
        params = connection.client_params
        name = params.client_info.name[:_MAX_NAME_LENGTH] if params else ""
        return cls(connection.protocol_version, name, token_urlsafe(_NONCE_BYTES))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Return the session with this id, ``None`` if no server made it."""
        found = _ID.fullmatch(text)
        if found is None or found["version"] not in HANDSHAKE_PROTOCOL_VERSIONS:
            return None
        try:
            name = urlsafe_b64decode(found["name"] + "==").decode()
        except ValueError:
            return None
        return cls(found["version"], name, found["nonce"], found["caller"] or "")

    def __str__(self) -> str:
        name = urlsafe_b64encode(self.name.encode()).decode().rstrip("=")
        return f"{self.version}.{name}.{self.key}"

    @property
    def key(self) -> str:
        """What distinguishes the session from all others, also those of other callers."""
        return f"{self.nonce}.{self.caller}" if self.caller else self.nonce

    def connect(self) -> Connection:
        """Return the connection as it was after the handshake."""
        return Connection.from_envelope(self.version, {"name": self.name, "version": ""}, {})


class Sessions:
    """The path ``/mcp`` for the revisions with a handshake; all other requests go to ``app``.

    In memory are only the requests in progress, so that a cancellation finds them, and the ids
    of sessions that clients ended.
    """

    def __init__(self, app: ASGIApp, server: Server[Any], path: str = "/mcp") -> None:
        self._app = app
        self._server = server
        self._path = path
        self._handle = RequestBodyLimitMiddleware(self._serve, DEFAULT_MAX_REQUEST_BODY_SIZE)
        self._in_progress: dict[tuple[str, RequestId], Exchange] = {}
        self._ended: OrderedDict[str, None] = OrderedDict()
        #: How many sessions clients have begun, and how many they have ended.
        self.begun = self.ended = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        is_ours = scope["type"] == "http" and scope["path"] == self._path
        if is_ours:
            version = Request(scope).headers.get(MCP_PROTOCOL_VERSION_HEADER)
            is_ours = version is None or version in HANDSHAKE_PROTOCOL_VERSIONS
        await (self._handle if is_ours else self._app)(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        match request.method:
            case "POST":
                response = await self._post(request, send)
            case "DELETE":
                response = self._delete(request)
            case _:
                # No stream for GET: this server sends nothing but answers.
                response = _error(HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed")
                response.headers["Allow"] = "POST, DELETE"
        if response is not None:
            await response(scope, receive, send)

    async def _post(self, request: Request, send: Send) -> Response | None:
        """Return the response, ``None`` if it is sent."""
        if not all(check_accept_headers(request)):
            text = "Not Acceptable: Client must accept both application/json and text/event-stream"
            return _error(HTTPStatus.NOT_ACCEPTABLE, text)
        media_type = request.headers.get("content-type", "").partition(";")[0]
        if media_type.strip().lower() != "application/json":
            text = "Unsupported Media Type: Content-Type must be application/json"
            return _error(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, text)
        try:
            message = jsonrpc_message_adapter.validate_json(await request.body(), by_name=False)
        except ValidationError as error:
            return _invalid(error)
        if isinstance(message, JSONRPCRequest) and message.method == "initialize":
            await self._initialize(Exchange(request, message, send), message, caller_of(request))
            return None
        session = self._session(request)
        if isinstance(session, Response):
            return session
        if isinstance(message, JSONRPCRequest):
            await self._answer(Exchange(request, message, send), message, session)
            return None
        self._notice(message, session)
        return Response(status_code=HTTPStatus.ACCEPTED)

    async def _initialize(self, exchange: Exchange, message: JSONRPCRequest, caller: str) -> None:
        connection = Connection.from_envelope(LATEST_HANDSHAKE_VERSION, None, None)
        answer = await exchange.run(self._work(message, exchange, connection))
        headers = {}
        if "result" in answer:
            session = Session.begin(connection)._replace(caller=caller)
            headers[MCP_SESSION_ID_HEADER] = str(session)
            self.begun += 1
        await exchange.respond(answer, headers)

    async def _answer(self, exchange: Exchange, message: JSONRPCRequest, session: Session) -> None:
        key = (session.key, str(message.id))
        self._in_progress[key] = exchange
        try:
            answer = await exchange.run(self._work(message, exchange, session.connect()))
        finally:
            # A client may have used the id twice.
            if self._in_progress.get(key) is exchange:
                del self._in_progress[key]
        await exchange.respond(answer, {})

    async def _work(
        self, message: JSONRPCRequest, exchange: Exchange, connection: Connection
    ) -> dict[str, Any]:
        return await serve_one(
            self._server,
            exchange,
            message.method,
            message.params,
            connection=connection,
            lifespan_state={},
        )

    def _session(self, request: Request) -> Session | Response:
        """Return the session of a request, or how to refuse it."""
        text = request.headers.get(MCP_SESSION_ID_HEADER)
        if text is None:
            return _error(HTTPStatus.BAD_REQUEST, "Bad Request: Missing session ID")
        session = Session.parse(text)
        is_own = session is not None and session.caller == caller_of(request)
        if session is None or not is_own or session.key in self._ended:
            return _error(HTTPStatus.NOT_FOUND, "Session not found")
        return session

    def _notice(self, message: JSONRPCMessage, session: Session) -> None:
        """Handle a notification: only a cancellation has an effect."""
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            request_id = str(cancelled_request_id_from_params(message.params))
            exchange = self._in_progress.get((session.key, request_id))
            if exchange is not None:
                exchange.cancel()

    def _delete(self, request: Request) -> Response:
        """End a session, and what it has in progress."""
        session = self._session(request)
        if isinstance(session, Response):
            return session
        self._ended[session.key] = None
        self.ended += 1
        if len(self._ended) > _MAX_ENDED:
            self._ended.popitem(last=False)
        for (key, _), exchange in self._in_progress.items():
            if key == session.key:
                exchange.cancel()
        return Response(status_code=HTTPStatus.OK)


def _invalid(error: ValidationError) -> Response:
    """Return the response to a body that is no message of the protocol."""
    if error.errors(include_url=False)[0]["type"] == "json_invalid":
        return _error(HTTPStatus.BAD_REQUEST, "Parse error", PARSE_ERROR)
    return _error(HTTPStatus.BAD_REQUEST, "Body must be a single JSON-RPC message")


def _error(status: HTTPStatus, message: str, code: int = INVALID_REQUEST) -> Response:
    body = JSONRPCError(jsonrpc="2.0", id=None, error=ErrorData(code=code, message=message))
    text = body.model_dump_json(by_alias=True, exclude_unset=True)
    return Response(text, status_code=status, media_type="application/json")
