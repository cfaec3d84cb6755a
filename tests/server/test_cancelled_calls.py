# SPDX-License-Identifier: Apache-2.0
"""A creation whose client gave up: ended and removed if the client said so, else finished."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from mcp import Client
from mcp.server import MCPServer
from starlette.types import Message, Scope

from tests.server.asgi import HEADERS, LegacyClient
from tests.server.client import ask, talk
from tests.service import fakes
from tests.service.fakes import Gate, World
from waggle_fsstore import MemoryStore
from waggle_fsstore.server.sessions import Sessions
from waggle_fsstore.server.tools import make_server
from waggle_fsstore.service.in_progress import IN_PROGRESS

MODERN = "2026-07-28"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(MemoryStore(), tmp_path / "workspaces")
    yield world
    # A call may wait at a gate for as long.
    assert IN_PROGRESS.wait_until_empty(2 * fakes.TIMEOUT_S)
    world.close()


def _until_creating(world: World) -> tuple[MCPServer[Any], Gate]:
    """Return a server, and the gate at which its next creation waits, halfway."""
    gate = Gate()
    world.script.at("halfway make", gate)
    return make_server(world.service()), gate


async def _wait_for_removal(world: World) -> None:
    with anyio.fail_after(fakes.TIMEOUT_S):
        while world.real_store.count():
            await anyio.sleep(0.01)


def test_notification_cancels_creation(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A client that gives up leaves neither a record nor a workspace, and can go on."""
    caplog.set_level(logging.INFO)
    server, gate = _until_creating(world)

    async def dialogue(client: Client) -> dict[str, Any]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.call_tool, "create_environment", {"runtime": "shell"})
            await to_thread.run_sync(gate.wait_until_reached)
            tasks.cancel_scope.cancel()
        await _wait_for_removal(world)
        gate.open()
        return await ask(client, "create_environment", runtime="shell")

    created = talk(server, dialogue, mode="legacy")["environment_id"]
    assert IN_PROGRESS.wait_until_empty(fakes.TIMEOUT_S)
    assert world.provider.workspaces() == {created}
    *_, deleted = (one for one in world.store.history() if one.environment_id != created)
    assert (deleted.kind, deleted.actor) == ("deleted", "mcp:tester")
    assert deleted.reason == "the creation was cancelled"
    calls = [one for one in caplog.messages if one.startswith("call of ")]
    assert sorted(calls) == [
        "call of create_environment: cancelled",
        "call of create_environment: ok",
    ]


def test_notification_cancels_only_its_call(world: World) -> None:
    """The cancellation of one creation leaves another one alone."""
    server, gate = _until_creating(world)
    other_gate = Gate()
    world.script.at("halfway make", other_gate, nth=2)

    async def create(client: Client, runtime: str, scope: anyio.CancelScope) -> None:
        with scope:
            created.append(await ask(client, "create_environment", runtime=runtime))

    async def dialogue(client: Client) -> None:
        scope = anyio.CancelScope()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(create, client, "shell", scope)
            await to_thread.run_sync(gate.wait_until_reached)
            tasks.start_soon(create, client, "node", anyio.CancelScope())
            await to_thread.run_sync(other_gate.wait_until_reached)
            scope.cancel()
            with anyio.fail_after(fakes.TIMEOUT_S):
                while world.real_store.count() > 1:
                    await anyio.sleep(0.01)
            other_gate.open()
            gate.open()

    created: list[dict[str, Any]] = []
    talk(server, dialogue, mode="legacy")
    [stored] = world.store.find_all()
    assert [one["environment_id"] for one in created] == [stored.id]
    assert (stored.runtime, stored.is_running) == ("node", True)


def test_lost_client_is_no_cancellation(world: World) -> None:
    """The end of the connection alone does not end a creation."""
    server, gate = _until_creating(world)

    async def dialogue(client: Client) -> None:
        asyncio.get_running_loop().create_task(  # It ends with the connection.
            _ignore_failure(client.call_tool("create_environment", {"runtime": "shell"}))
        )
        await to_thread.run_sync(gate.wait_until_reached)
        asyncio.get_running_loop().call_later(0.05, gate.open)

    talk(server, dialogue, mode="legacy")
    [stored] = world.store.find_all()
    assert stored.is_running


async def _ignore_failure(call: Awaitable[object]) -> None:
    with pytest.raises(BaseException):  # noqa: B017, PT011
        await call


def _request(tool: str, arguments: dict[str, object]) -> tuple[Scope, bytes]:
    """Return a request of the stateless revision over HTTP."""
    prefix = "io.modelcontextprotocol/"
    meta = {
        f"{prefix}protocolVersion": MODERN,
        f"{prefix}clientInfo": {"name": "tester", "version": "1"},
        f"{prefix}clientCapabilities": {},
    }
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {
        **HEADERS,
        "Host": "localhost:80",
        "mcp-protocol-version": MODERN,
        "mcp-method": "tools/call",
        "mcp-name": tool,
    }
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": "/mcp",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    return scope, json.dumps(body).encode()


async def _post(
    server: MCPServer[Any], until: Callable[[], Awaitable[object]], **arguments: object
) -> None:
    """Call create_environment over HTTP, and close the stream after ``until``."""
    app = server.streamable_http_app()
    scope, body = _request("create_environment", arguments)
    received: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if received:
            return received.pop()
        await until()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        assert message.get("status", 200) == 200, message

    async with server.session_manager.run():
        await app(scope, receive, send)


def test_closed_stream_cancels_creation(world: World) -> None:
    """Over HTTP since 2026-07-28, a client cancels by closing the response stream."""
    server, gate = _until_creating(world)

    async def call() -> None:
        async with anyio.create_task_group() as tasks:
            until = lambda: to_thread.run_sync(gate.wait_until_reached)  # noqa: E731
            await _post(server, until, runtime="shell")
            tasks.cancel_scope.cancel()
        await _wait_for_removal(world)
        gate.open()

    asyncio.run(call())
    assert IN_PROGRESS.wait_until_empty(fakes.TIMEOUT_S)
    assert world.provider.workspaces() == set()
    assert {event.actor for event in world.store.history()} == {"mcp:tester"}


def test_end_of_server_is_no_cancellation(world: World) -> None:
    """The end of a server closes its streams too, and destroys nothing."""
    gate = Gate()
    world.script.at("halfway make", gate)
    server = make_server(world.service(), lambda: True)

    async def call() -> None:
        until = lambda: to_thread.run_sync(gate.wait_until_reached)  # noqa: E731
        await _post(server, until, runtime="shell")
        gate.open()

    asyncio.run(call())
    assert IN_PROGRESS.wait_until_empty(fakes.TIMEOUT_S)
    [stored] = world.real_store.find_all()
    assert stored.is_running


async def _create_over_legacy_http(world: World, *, is_lost: bool) -> None:
    """Begin a creation in a session, which the client cancels unless its connection is lost."""
    server, gate = _until_creating(world)
    client = await LegacyClient(
        Sessions(server.streamable_http_app(), server.session_manager.app)
    ).begin()
    arguments: dict[str, Any] = {"name": "create_environment", "arguments": {"runtime": "shell"}}
    call = asyncio.create_task(client.ask("tools/call", is_lost=is_lost, **arguments))
    await to_thread.run_sync(gate.wait_until_reached)
    if not is_lost:
        await client.notify("notifications/cancelled", requestId=2)
        await _wait_for_removal(world)
    gate.open()
    await call


def test_notification_over_http_cancels_creation(world: World) -> None:
    """Over HTTP before 2026-07-28, a notification in a request of its own cancels."""
    asyncio.run(_create_over_legacy_http(world, is_lost=False))
    assert IN_PROGRESS.wait_until_empty(fakes.TIMEOUT_S)
    assert world.provider.workspaces() == set()
    assert {event.actor for event in world.store.history()} == {"mcp:tester"}


def test_lost_connection_over_http_is_no_cancellation(world: World) -> None:
    """Over HTTP before 2026-07-28, a creation outlives the connection of its client."""
    asyncio.run(_create_over_legacy_http(world, is_lost=True))
    [stored] = world.store.find_all()
    assert stored.is_running


def test_answered_creation_is_not_cancelled(world: World) -> None:
    """A stream that ends after its answer destroys nothing."""
    server = make_server(world.service())
    asyncio.run(_post(server, anyio.sleep_forever, runtime="shell"))
    [stored] = world.store.find_all()
    assert stored.is_running
