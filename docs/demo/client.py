# SPDX-License-Identifier: Apache-2.0
"""Call a tool of the server, and print its answer: ``client.py URL TOOL ARGUMENT=VALUE...``."""

import asyncio
import json
import sys

from mcp import Client, Implementation


async def main(url: str, tool: str, *arguments: str) -> int:
    """Call the tool. Return the exit code: 1 if the tool answers with an error."""
    given = dict(argument.split("=", 1) for argument in arguments)
    async with Client(url, client_info=Implementation(name="demo", version="1")) as client:
        answer = await client.call_tool(tool, given)
    sys.stdout.write(json.dumps(answer.structured_content, indent=2) + "\n")
    return int(bool(answer.is_error))


sys.exit(asyncio.run(main(*sys.argv[1:])))
