# SPDX-License-Identifier: Apache-2.0
"""mcp-proxy between a client and the server, in both directions; the client is the SDK 1.x."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from conversation import converse, place
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client
from mcp.types import Implementation

PROXY = str(Path(sys.executable).with_name("mcp-proxy"))
START_ATTEMPTS = 200


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[Any, Any]]:
    """Yield the streams of a connection to the proxy, which uses the other transport."""
    target, arguments = place()
    if not arguments:
        parameters = StdioServerParameters(
            command=PROXY, args=["--transport", "streamablehttp", target]
        )
        async with stdio_client(parameters) as streams:
            yield streams
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["--pass-environment", f"--port={port}", "--", target, *arguments]
    # Its access log goes to standard output, which is for the answers.
    proxy = await asyncio.create_subprocess_exec(
        PROXY, *command, env=dict(os.environ), stdout=sys.stderr
    )
    try:
        for _ in range(START_ATTEMPTS):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.1)
        async with streamablehttp_client(f"http://127.0.0.1:{port}/mcp") as (read, write, _):
            yield read, write
    finally:
        proxy.terminate()
        await proxy.wait()


async def main() -> None:
    """Connect and converse."""
    me = Implementation(name="behind-a-proxy", version="1")
    async with connection() as streams, ClientSession(*streams, client_info=me) as session:
        await session.initialize()

        async def call(tool: str, values: dict[str, Any]) -> dict[str, Any]:
            return (await session.call_tool(tool, values)).structuredContent

        await converse(call)


asyncio.run(main())
