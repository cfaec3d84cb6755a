# SPDX-License-Identifier: Apache-2.0
"""A viewer of the stream of events, in the loop of the test."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Self

from starlette.types import ASGIApp, Message

from tests.server.processes import TIMEOUT_S


class Viewer:
    """A connection to ``/stream``, which ends with the block."""

    def __init__(self, app: ASGIApp, query: str = "", **headers: str) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = ""
        self.reads = asyncio.Event()
        self.reads.set()
        self._gone = asyncio.Event()
        self._news = asyncio.Event()
        sent = {"host": "localhost", **headers}
        self._scope = {
            "type": "http",
            "http_version": "1.1",
            "method": "GET",
            "path": "/stream",
            "query_string": query.encode(),
            "headers": [(name.lower().encode(), it.encode()) for name, it in sent.items()],
        }
        self._app = app

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._serve())
        await self.until(lambda: self.status != 0)
        return self

    async def _serve(self) -> None:
        await self._app(self._scope, self._receive, self._send)

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    async def _receive(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): it.decode() for name, it in message["headers"]}
        else:
            self.body += message["body"].decode()
        self._news.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what has come fulfils a condition."""
        async with asyncio.timeout(TIMEOUT_S):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def ended(self) -> None:
        """Wait until the server has ended the stream."""
        async with asyncio.timeout(TIMEOUT_S):
            await self._task

    async def leave(self) -> None:
        self._gone.set()
        await self.ended()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events that have come, each with its id."""
        found = []
        for block in self.body.split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
            if "id" in lines:
                found.append({"id": lines["id"], **json.loads(lines["data"])})
        return found

    @property
    def seqs(self) -> list[int]:
        return [event["seq"] for event in self.events]
