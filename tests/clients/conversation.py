# SPDX-License-Identifier: Apache-2.0
"""What each Python client does; of the standard library only, because it runs in any of them."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

#: Calls a tool by its name with arguments, and returns its structured result.
Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


def place() -> tuple[str, list[str]]:
    """Return the URL of the server, or the command that starts one, and its arguments."""
    return sys.argv[1], sys.argv[2:]


async def converse(call: Call, *, runtime: str = "runtime") -> None:
    """Create, list, get and destroy an environment, and print all answers as one JSON object.

    Over HTTP the server is killed and started again on the way. ``runtime`` is the name of the
    argument for the runtime.
    """
    made = await call("create_environment", {runtime: "shell", "name": "from a client"})
    handle = {"environment_id": made["environment_id"]}
    listed = await call("list_environments", {})
    if place()[0].startswith("http://"):
        print("restart the server", flush=True)  # noqa: T201  # The harness reads it.
        await asyncio.to_thread(sys.stdin.readline)
    got = await call("get_environment", handle)
    lived = await call("environment_history", handle)
    destroyed = await call("destroy_environment", handle)
    ended = await call("environment_history", handle)
    answers = {"made": made, "listed": listed, "got": got, "lived": lived}
    answers |= {"destroyed": destroyed, "ended": ended}
    print(json.dumps(answers))  # noqa: T201
