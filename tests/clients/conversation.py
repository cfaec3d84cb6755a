# SPDX-License-Identifier: Apache-2.0
"""What each Python client does; of the standard library only, because it runs in any of them."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

#: Calls a tool by its name with arguments, and returns its structured result.
Call = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


#: What the agent runs: it needs the package that it has installed, and the file.
CODE = """
import csv, primes31
numbers = [int(row["n"]) for row in csv.DictReader(open("in/a.csv"))]
open("out.txt", "w").write(str([n for n in numbers if primes31.is_prime(n)]))
print(len(numbers))
"""


def place() -> tuple[str, list[str]]:
    """Return the URL of the server, or the command that starts one, and its arguments."""
    return sys.argv[1], sys.argv[2:]


async def converse(call: Call, *, runtime: str = "runtime") -> None:
    """Let an agent work in an environment, and print all answers as one JSON object.

    It creates the environment, installs a package, writes a file, runs code on it, reads the
    result, and destroys the environment. Over HTTP the server is killed and started again on the
    way. ``runtime`` is the name of the argument for the runtime.
    """
    made = await call("create_environment", {runtime: "python", "name": "from a client"})
    handle = {"environment_id": made["environment_id"]}
    listed = await call("list_environments", {})
    if place()[0].startswith("http://"):
        print("restart the server", flush=True)  # noqa: T201  # The harness reads it.
        await asyncio.to_thread(sys.stdin.readline)
    got = await call("get_environment", handle)
    installed = await call("install_packages", {**handle, "packages": ["primes31"]})
    written = await call("write_file", {**handle, "path": "in/a.csv", "content": "n\n6\n7\n"})
    executed = await call("execute", {**handle, "code": CODE})
    if executed["exit_code"]:
        raise RuntimeError(json.dumps([installed, executed]))
    read = await call("read_file", {**handle, "path": "out.txt"})
    files = await call("list_files", handle)
    lived = await call("environment_history", handle)
    destroyed = await call("destroy_environment", handle)
    ended = await call("environment_history", handle)
    answers = {"made": made, "listed": listed, "got": got, "lived": lived}
    answers |= {"installed": installed, "written": written, "executed": executed, "read": read}
    answers |= {"files": files, "destroyed": destroyed, "ended": ended}
    print(json.dumps(answers))  # noqa: T201
