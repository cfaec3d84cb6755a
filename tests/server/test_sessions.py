# SPDX-License-Identifier: Apache-2.0
"""Sessions over HTTP: they outlive the server, cost nothing, and their calls can be cancelled."""

import asyncio
import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from starlette.types import ASGIApp

from tests.server.asgi import HEADERS, LATEST, Answer, LegacyClient, request
from waggle_fsstore.config import Settings
from waggle_fsstore.server import exchange, sessions
from waggle_fsstore.server.http import application
from waggle_fsstore.server.lifecycle import ServiceHost
from waggle_fsstore.server.sessions import Session, Sessions

VERSIONS = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]


@contextmanager
def _serving(root: Path) -> Iterator[ASGIApp]:
    settings = Settings.from_env({"WAGGLE_REAPER_INTERVAL": "1h"})
    with ServiceHost(settings, str(root), is_http=True) as host:
        yield application(host, settings)


class Workshop:
    """A server with tools that a test controls, and the application in front of it."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.may_finish = asyncio.Event()
        self.outcomes: list[str] = []
        server: MCPServer[Any] = MCPServer("workshop")
        server.add_tool(self.work)
        server.add_tool(self.fail)
        app = server.streamable_http_app()
        self.app = Sessions(app, server.session_manager.app)

    async def work(self, ctx: Context[Any]) -> str:
        self.started.set()
        try:
            await ctx.report_progress(1, 2, "half way")
            await self.may_finish.wait()
        except asyncio.CancelledError:
            self.outcomes.append("cancelled")
            raise
        self.outcomes.append("done")
        return "done"

    def fail(self) -> str:
        raise RuntimeError("secret")

    async def begin(self) -> LegacyClient:
        return await LegacyClient(self.app).begin()


# Restarts


@pytest.mark.parametrize("version", VERSIONS)
def test_session_outlives_its_server(root: Path, version: str) -> None:
    """A client continues with another server as if there was no restart, under the same name."""

    async def begin(app: ASGIApp) -> str:
        client = await LegacyClient(app).begin(name="größe", version=version)
        assert client.session_id is not None
        return client.session_id

    async def resume(app: ASGIApp) -> str:
        client = LegacyClient(app, session_id)
        assert (await client.ask("ping")).message["result"] == {}
        made = await client.call("create_environment", runtime="shell")
        history = await client.call("environment_history", environment_id=made["environment_id"])
        return str(history["events"][0]["actor"])

    with _serving(root) as app:
        session_id = asyncio.run(begin(app))
    with _serving(root) as app:
        assert asyncio.run(resume(app)) == "mcp:größe"


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=200),
    st.sampled_from(VERSIONS),
    st.text("abcdefXYZ0189-_", min_size=22, max_size=22),
)
def test_session_id_holds_the_session(name: str, version: str, nonce: str) -> None:
    """An id is visible ASCII, as the protocol demands, and returns what it was made of."""
    session = Session(version, name, nonce)
    text = str(session)
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text
    assert Session.parse(text) == session


@given(st.text("abz019-_=.é ", max_size=12), st.text("abz019-_é", min_size=21, max_size=23))
def test_other_text_is_no_session_id(name: str, nonce: str) -> None:
    """Text that looks like an id is one or not; it is never an internal error."""
    session = Session.parse(f"{LATEST}.{name}.{nonce}")
    assert session is None or Session.parse(str(session)) == session


@pytest.mark.parametrize(
    ("session_id", "status", "message"),
    [
        (None, 400, "Bad Request: Missing session ID"),
        ("", 404, "Session not found"),
        ("0123456789abcdef0123456789abcdef", 404, "Session not found"),
        (f"2023-01-01..{'x' * 22}", 404, "Session not found"),
        (f"{LATEST}.A.{'x' * 22}", 404, "Session not found"),
        (f"{LATEST}._w.{'x' * 22}", 404, "Session not found"),
    ],
)
def test_unknown_session_is_refused(session_id: str | None, status: int, message: str) -> None:
    """A client without a session has to perform the handshake, as the protocol says."""

    async def ask() -> Answer:
        client = LegacyClient(Workshop().app)
        headers = {**HEADERS} if session_id is None else {**HEADERS, "Mcp-Session-Id": session_id}
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "ping"}).encode()
        return await request(client.app, "POST", "/mcp", headers=headers, body=body)

    answer = asyncio.run(ask())
    assert (answer.status, answer.message["error"]["message"]) == (status, message)


# Memory


def test_abandoned_sessions_cost_nothing() -> None:
    """A session takes up no memory, so any number of clients may leave theirs behind."""

    async def abandon(app: ASGIApp, number: int) -> None:
        for _ in range(number):
            await LegacyClient(app).begin()

    async def count() -> int:
        app = Workshop().app
        await abandon(app, 10)
        gc.collect()
        before = len(gc.get_objects())
        await abandon(app, 50)
        gc.collect()
        return len(gc.get_objects()) - before

    assert asyncio.run(count()) < 50


def test_ended_session_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server remembers the latest sessions that their clients ended."""
    monkeypatch.setattr(sessions, "_MAX_ENDED", 2)

    async def end() -> list[int]:
        app = Workshop().app
        clients = [await LegacyClient(app).begin() for _ in range(4)]
        for client in clients[:3]:
            assert (await client.end()).status == 200
        return [(await client.ask("ping")).status for client in clients]

    assert asyncio.run(end()) == [200, 404, 404, 200]


# Cancellation


@pytest.mark.parametrize("request_id", [2, "2"], ids=["number", "text"])
def test_cancellation_finds_its_request(request_id: int | str) -> None:
    """The call ends, although the cancellation arrives in a request of its own."""

    async def cancel() -> tuple[Answer, list[str]]:
        workshop = Workshop()
        client = await workshop.begin()
        call = asyncio.create_task(client.ask("tools/call", name="work"))
        await workshop.started.wait()
        told = await client.notify("notifications/cancelled", requestId=request_id)
        assert told.status == 202
        workshop.may_finish.set()  # Too late.
        return await call, workshop.outcomes

    answer, outcomes = asyncio.run(cancel())
    assert outcomes == ["cancelled"]
    assert answer.message["error"] == {"code": -32800, "message": "Request cancelled"}


def test_cancellation_concerns_one_session() -> None:
    """Another client may use the same request id: its cancellation has no effect here."""

    async def cancel() -> list[str]:
        workshop = Workshop()
        client, other = await workshop.begin(), await workshop.begin()
        call = asyncio.create_task(client.ask("tools/call", name="work"))
        await workshop.started.wait()
        request_ids: list[object] = [2, 7, None, {}, True]
        for request_id in request_ids:
            await other.notify("notifications/cancelled", requestId=request_id)
        await client.notify("notifications/cancelled", requestId=7)
        workshop.may_finish.set()
        assert (await call).message["result"]
        return workshop.outcomes

    assert asyncio.run(cancel()) == ["done"]


def test_end_of_session_cancels_its_calls() -> None:
    """A client that ended its session cannot receive the answer any more."""

    async def end() -> list[str]:
        workshop = Workshop()
        client = await workshop.begin()
        call = asyncio.create_task(client.ask("tools/call", name="work"))
        await workshop.started.wait()
        await client.end()
        workshop.may_finish.set()  # Too late.
        await call
        return workshop.outcomes

    assert asyncio.run(end()) == ["cancelled"]


def test_lost_connection_is_no_cancellation() -> None:
    """The call continues: its client may only have lost the network for a moment."""

    async def lose() -> list[str]:
        workshop = Workshop()
        client = await workshop.begin()
        call = asyncio.create_task(client.ask("tools/call", name="work", is_lost=True))
        await workshop.started.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert workshop.outcomes == []
        workshop.may_finish.set()
        await call
        return workshop.outcomes

    assert asyncio.run(lose()) == ["done"]


# Responses


def test_bug_is_hidden_from_the_client() -> None:
    """The text of an unexpected error stays in the log."""

    async def fail() -> Answer:
        client = await Workshop().begin()
        return await client.ask("tools/call", name="fail")

    assert "secret" not in asyncio.run(fail()).body


def test_long_call_is_answered_by_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Comments keep the connection alive, and progress is reported, until the result comes."""
    monkeypatch.setattr(exchange, "_PING_INTERVAL_S", 0)

    async def work() -> Answer:
        workshop = Workshop()
        client = await workshop.begin()
        meta = {"progressToken": "half"}
        call = asyncio.create_task(client.ask("tools/call", name="work", _meta=meta))
        await workshop.started.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        workshop.may_finish.set()
        return await call

    answer = asyncio.run(work())
    assert answer.headers["content-type"] == "text/event-stream"
    assert ": ping" in answer.body
    assert '"progressToken": "half", "progress": 1, "total": 2, "message"' in answer.body
    assert answer.message["result"]["content"][0]["text"] == "done"


def test_short_call_is_answered_at_once() -> None:
    """A result that needs no waiting is plain JSON, which takes half the time of a stream."""

    async def ping() -> Answer:
        return await (await Workshop().begin()).ask("ping")

    answer = asyncio.run(ping())
    assert answer.headers["content-type"] == "application/json"
    assert answer.message == {"jsonrpc": "2.0", "id": 2, "result": {}}


@pytest.mark.parametrize(
    ("method", "changes", "body", "status"),
    [
        ("GET", {}, b"", 405),
        ("PUT", {}, b"", 405),
        ("DELETE", {}, b"", 400),
        ("POST", {}, b"{", 400),
        ("POST", {}, b"[]", 400),
        ("POST", {"Accept": "application/json"}, b"{}", 406),
        ("POST", {"Content-Type": "text/plain"}, b"{}", 415),
        ("POST", {"Content-Type": ""}, b"{}", 415),
    ],
)
def test_other_requests_are_refused(
    method: str, changes: dict[str, str], body: bytes, status: int
) -> None:
    """What is no message of the protocol gets the status that HTTP has for it."""
    app = Workshop().app
    headers = {**HEADERS, **changes}
    answer = asyncio.run(request(app, method, "/mcp", headers=headers, body=body))
    assert answer.status == status
    assert answer.message["error"]["code"] in (-32600, -32700)
