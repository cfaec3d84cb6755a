# SPDX-License-Identifier: Apache-2.0
"""LangChain's tools for MCP. Its wrapper keeps an argument named runtime for itself."""

import asyncio
import json
import os
from typing import Any

from conversation import converse, place
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools


async def main() -> None:
    """Connect and converse."""
    target, arguments = place()
    if arguments:
        connection = {"transport": "stdio", "command": target, "args": arguments}
        connection["env"] = dict(os.environ)
    else:
        connection = {"transport": "streamable_http", "url": target}
    client = MultiServerMCPClient({"waggle": connection})
    async with client.session("waggle") as session:
        tools = {tool.name: tool for tool in await load_mcp_tools(session)}

        async def call(tool: str, values: dict[str, Any]) -> dict[str, Any]:
            answer = await tools[tool].ainvoke(values)
            return json.loads(answer if isinstance(answer, str) else answer[0]["text"])

        await converse(call, runtime="language")


asyncio.run(main())
