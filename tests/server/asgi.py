# SPDX-License-Identifier: Apache-2.0
"""Requests to an ASGI application in this process."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import anyio
from starlette.types import ASGIApp, Message

#: What every client of the protocol sends.
HEADERS = {
    "Host": "localhost",
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
}

LATEST = "2025-11-25"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: str

    @property
    def message(self) -> dict[str, Any]:
        """The JSON object in the body, or in the last event of a stream."""
        data = [line[6:] for line in self.body.splitlines() if line.startswith("data: ")]
        message: dict[str, Any] = json.loads(data[-1] if data else self.body)
        return message


async def request(
    app: ASGIApp,
    method: str,
    path: str,
    *,
    headers: Mapping[str, str] = HEADERS,
    body: bytes = b"",
    is_lost: bool = False,
) -> Answer:
    """Return the answer. A lost connection is gone as soon as the request is sent."""
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    received: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    sent: list[Message] = []

    async def receive() -> Message:
        if received:
            return received.pop()
        if not is_lost:
            await anyio.sleep_forever()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    answered = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    text = b"".join(message.get("body", b"") for message in sent).decode()
    return Answer(sent[0]["status"], answered, text)


class LegacyClient:
    """A client of a revision with a handshake, over HTTP."""

    def __init__(self, app: ASGIApp, session_id: str | None = None) -> None:
        self.app = app
        self.session_id = session_id
        self._number = 0

    @property
    def headers(self) -> dict[str, str]:
        return {**HEADERS, "Mcp-Session-Id": self.session_id} if self.session_id else dict(HEADERS)

    async def begin(self, *, name: str = "tester", version: str = LATEST) -> "LegacyClient":
        """Perform the handshake."""
        client = {"name": name, "version": "1"}
        answer = await self.ask(
            "initialize", protocolVersion=version, capabilities={}, clientInfo=client
        )
        assert answer.message["result"]["protocolVersion"] == version
        self.session_id = answer.headers["mcp-session-id"]
        assert (await self.notify("notifications/initialized")).status == 202
        return self

    async def ask(self, method: str, *, is_lost: bool = False, **params: object) -> Answer:
        self._number += 1
        message = {"jsonrpc": "2.0", "id": self._number, "method": method, "params": params}
        return await self._post(message, is_lost=is_lost)

    async def notify(self, method: str, **params: object) -> Answer:
        return await self._post({"jsonrpc": "2.0", "method": method, "params": params})

    async def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool, which must succeed, and return its structured result."""
        answer = await self.ask("tools/call", name=tool, arguments=arguments)
        result = answer.message["result"]
        assert not result.get("isError"), result
        content: dict[str, Any] = result["structuredContent"]
        return content

    async def end(self) -> Answer:
        return await request(self.app, "DELETE", "/mcp", headers=self.headers)

    async def _post(self, message: object, *, is_lost: bool = False) -> Answer:
        return await request(
            self.app,
            "POST",
            "/mcp",
            headers=self.headers,
            body=json.dumps(message).encode(),
            is_lost=is_lost,
        )
