# SPDX-License-Identifier: Apache-2.0
"""Servers as processes: to start, to talk to, and to end in any case."""

import itertools
import json
import os
import threading
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from queue import Queue
from types import TracebackType
from typing import IO, Any, Self

from tests.fork_server import Program

#: How long a test waits for what should take no time, on a busy machine too.
TIMEOUT_S = 60.0

# The shutdown timeouts of a server suffice while it gets processor time. A machine that stalls
# must not look like a server that hangs.
_LONG_TIMEOUTS = """
from waggle_fsstore.server import log, shutdown
log._FLUSH_TIMEOUT_S = shutdown._DEADLINE_S = 50
"""

#: The program of each server.
START = """
import sys
from waggle_fsstore.cli import main
sys.exit(main())
"""

# Blocks each caller of a function, which it logs, until the input is closed.
_HOLD = """
import logging, os, threading
from waggle_fsstore.provider import layout, local, trash
released = threading.Event()
def hold(*arguments, real={name}):
    logging.getLogger("held").warning("held")
    released.wait()
    return real(*arguments)
{name} = hold
if {is_released_by_input}:
    threading.Thread(target=lambda: (os.read(0, 1), released.set()), daemon=True).start()
"""


def hold(name: str, *, is_released_by_input: bool = True) -> str:
    """Return code that blocks the provider at calls of a function, such as ``trash.move``."""
    return _HOLD.format(name=name, is_released_by_input=is_released_by_input)


class Server:
    """A server process of a store, killed at the end of the block.

    Its only environment variables are the search path and those given. ``code`` runs before
    the server starts.
    """

    flags: tuple[str, ...] = ()

    def __init__(self, store: Path | str, *, code: str = "", **variables: str) -> None:
        self.process = Program(
            *("--store", str(store), "serve", *self.flags),
            env={"PATH": os.environ["PATH"], **variables},
            code=_LONG_TIMEOUTS + code + START,
        )
        self.errors: list[str] = []
        self._changed = threading.Condition()
        self._has_ended = False
        self._threads = [
            threading.Thread(target=self._read_errors, args=[self.process.stderr]),
            threading.Thread(target=self._read_output, args=[self.process.stdout]),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for(self, text: str, *, times: int = 1) -> str:
        """Wait until ``times`` lines of standard error contain this text; return the last one."""

        def found() -> list[str]:
            return [line for line in self.errors if text in line]

        with self._changed:
            self._changed.wait_for(lambda: len(found()) >= times or self._has_ended, TIMEOUT_S)
            lines = found()
        assert len(lines) >= times, f"not on stderr: {text!r}\n{self.stderr()}"
        return lines[-1]

    def stderr(self) -> str:
        """Return all of standard error so far."""
        return "".join(self.errors)

    def log(self) -> list[dict[str, Any]]:
        """Return the entries of the log, each of which is a line of JSON."""
        return [json.loads(line) for line in self.errors]

    def close_input(self) -> None:
        self.process.stdin.close()

    def wait(self) -> int:
        """Wait for the end of the process, and return its exit code."""
        code = self.process.wait(TIMEOUT_S)
        for thread in self._threads:
            thread.join(TIMEOUT_S)
        return code

    def kill(self) -> None:
        """Kill the process, as a system that is out of memory does: nothing is closed."""
        self.process.kill()
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(BrokenPipeError):
                pipe.close()

    def _read_errors(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            with self._changed:
                self.errors.append(line.decode())
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _read_output(self, pipe: IO[bytes]) -> None:
        pipe.read()


class HttpServer(Server):
    """A server that listens on a free port."""

    def __init__(self, store: Path | str, *, code: str = "", **variables: str) -> None:
        variables = {"WAGGLE_LISTEN_ADDR": "127.0.0.1:0", **variables}
        super().__init__(store, code=code, **variables)

    @property
    def url(self) -> str:
        message: str = json.loads(self.wait_for("serving on http://"))["message"]
        return message.removeprefix("serving on ")

    @property
    def address(self) -> str:
        """Host and port of the server."""
        return self.url.removeprefix("http://").removesuffix("/mcp")

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Return the status and the text of the response."""
        return self.request("GET", path, headers=headers)

    def request(
        self, method: str, path: str, *, headers: dict[str, str], body: bytes | None = None
    ) -> tuple[int, str]:
        host, port = self.address.rsplit(":", 1)
        connection = HTTPConnection(host, int(port), timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body=body, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


class StdioServer(Server):
    """A server over standard input and output, with one message a line."""

    flags = ("--stdio",)

    def __init__(self, store: Path | str, *, code: str = "", **variables: str) -> None:
        self.output: list[str] = []
        self._answers: Queue[dict[str, Any] | None] = Queue()
        self._numbers = itertools.count(1)
        super().__init__(store, code=code, **variables)

    def begin(self, *, name: str = "raw") -> Self:
        """Perform the handshake of the protocol."""
        self.ask(
            "initialize",
            protocolVersion="2025-06-18",
            capabilities={},
            clientInfo={"name": name, "version": "1"},
        )
        self.send({"jsonrpc": "2.0", "method": "notifications/initialized"})
        return self

    def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool, and return its structured result."""
        self.post(tool, **arguments)
        result = self.answer()["result"]
        assert not result["isError"], result
        content: dict[str, Any] = result["structuredContent"]
        return content

    def post(self, tool: str, **arguments: object) -> None:
        """Call a tool without waiting for the answer."""
        self._request("tools/call", {"name": tool, "arguments": arguments})

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        self._request(method, params)
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Return the next answer, to any request."""
        while True:
            message = self._answers.get(timeout=TIMEOUT_S)
            assert message is not None, f"the server ended:\n{self.stderr()}"
            if "id" in message:
                return message

    def send(self, message: object) -> None:
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def _request(self, method: str, params: object) -> None:
        number = next(self._numbers)
        self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})

    def _read_output(self, pipe: IO[bytes]) -> None:
        for line in pipe:
            self.output.append(line.decode())
            self._answers.put(json.loads(line))
        self._answers.put(None)


def listing(directory: Path) -> dict[str, tuple[int, int, bytes]]:
    """Return mode, modification time and content of every entry below a directory."""
    return {
        str(path.relative_to(directory)): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted([directory, *directory.rglob("*")])
    }
