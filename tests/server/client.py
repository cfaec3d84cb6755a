# SPDX-License-Identifier: Apache-2.0
"""An MCP client for tests, over any transport."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.server import MCPServer
from mcp.types import Implementation, TextContent

T = TypeVar("T")
Dialogue = Callable[[Client], Awaitable[T]]

#: How to reach a server: an object in this process, a command to start, or a URL.
Place = MCPServer[Any] | StdioServerParameters | str


def talk(place: Place, dialogue: Dialogue[T], *, name: str = "tester", mode: str = "auto") -> T:
    """Connect, hold the dialogue, and disconnect; return its result."""

    async def run() -> T:
        client = Implementation(name=name, version="1")
        with open("/dev/null", "w") as devnull:
            transport: Any = place
            if isinstance(place, StdioServerParameters):
                transport = stdio_client(place, errlog=devnull)
            async with Client(transport, client_info=client, mode=mode) as connection:
                return await dialogue(connection)

    return asyncio.run(run())


async def ask(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """Call a tool and return its structured result. The call must succeed."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def refusal(client: Client, tool: str, **arguments: object) -> str:
    """Call a tool and return its error message. The call must fail."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    [content] = result.content
    assert isinstance(content, TextContent)
    return content.text.removeprefix(f"Error executing tool {tool}: ")


def call(place: Place, tool: str, **arguments: object) -> dict[str, Any]:
    """Connect, call one tool, and disconnect; see :func:`ask`."""
    return talk(place, lambda client: ask(client, tool, **arguments))


def refused(place: Place, tool: str, **arguments: object) -> str:
    """Connect, call one tool, and disconnect; see :func:`refusal`."""
    return talk(place, lambda client: refusal(client, tool, **arguments))


def workspace_of(store: Path, environment_id: str) -> Path:
    """Return the directory with the files of an environment, on this machine."""
    return store.with_name(f"{store.name}-workspaces") / environment_id / "home"
