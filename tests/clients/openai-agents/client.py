# SPDX-License-Identifier: Apache-2.0
"""The MCP client of the OpenAI Agents SDK."""

import asyncio
import os
from typing import Any

from agents.mcp import MCPServerStdio, MCPServerStreamableHttp
from conversation import converse, place


async def main() -> None:
    """Connect and converse."""
    target, arguments = place()
    if arguments:
        params = {"command": target, "args": arguments, "env": dict(os.environ)}
        server = MCPServerStdio(params=params, client_session_timeout_seconds=60)
    else:
        server = MCPServerStreamableHttp(params={"url": target}, client_session_timeout_seconds=60)
    async with server:

        async def call(tool: str, values: dict[str, Any]) -> dict[str, Any]:
            result = await server.call_tool(tool, values)
            return getattr(result, "structured_content", None) or result.structuredContent

        await converse(call)


asyncio.run(main())
