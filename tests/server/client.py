# SPDX-License-Identifier: Apache-2.0
"""Talking to a server as a client does, over whatever carries it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.server import MCPServer
from mcp.types import Implementation, TextContent

T = TypeVar("T")
Dialogue = Callable[[Client], Awaitable[T]]

#: How a server is reached: an object in this process, a command to start, or a URL.
Place = MCPServer[Any] | StdioServerParameters | str


def talk(place: Place, dialogue: Dialogue[T], *, name: str = "tester", mode: str = "auto") -> T:
    """Connect, say all of it, and disconnect."""

    async def run() -> T:
        client = Implementation(name=name, version="1")
        with open("/dev/null", "w") as nowhere:
            transport: Any = place
            if isinstance(place, StdioServerParameters):
                transport = stdio_client(place, errlog=nowhere)
            async with Client(transport, client_info=client, mode=mode) as connection:
                return await dialogue(connection)

    return asyncio.run(run())


async def ask(client: Client, tool: str, **arguments: object) -> dict[str, Any]:
    """The structured result of a tool that does not refuse."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert isinstance(result.structured_content, dict)
    return result.structured_content


async def refusal(client: Client, tool: str, **arguments: object) -> str:
    """What a tool says that refuses."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    [content] = result.content
    assert isinstance(content, TextContent)
    return content.text.removeprefix(f"Error executing tool {tool}: ")


def call(place: Place, tool: str, **arguments: object) -> dict[str, Any]:
    """Connect, call one tool, and disconnect."""
    return talk(place, lambda client: ask(client, tool, **arguments))


def refused(place: Place, tool: str, **arguments: object) -> str:
    """Connect, hear what one tool says that refuses, and disconnect."""
    return talk(place, lambda client: refusal(client, tool, **arguments))
