# SPDX-License-Identifier: Apache-2.0
"""The client of fastmcp."""

import asyncio
import os
from typing import Any

from conversation import converse, place
from fastmcp import Client
from fastmcp.client.transports import StdioTransport


async def main() -> None:
    """Connect and converse."""
    target, arguments = place()
    transport: Any = target
    if arguments:
        transport = StdioTransport(target, arguments, env=dict(os.environ))
    async with Client(transport) as client:

        async def call(tool: str, values: dict[str, Any]) -> dict[str, Any]:
            return (await client.call_tool(tool, values)).structured_content

        await converse(call)


asyncio.run(main())
