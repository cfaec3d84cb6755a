# SPDX-License-Identifier: Apache-2.0
"""Programs of the package that share one import of it: each is forked from the fork server.

Most of the time of a short program is spent on imports. So each worker of pytest has a process
that has imported the server, and what the command line needs, and has done nothing else. For each
program it forks a *keeper*, which forks the program and reports its end. A program ends as any
other: with its exit handlers, and with the status of its process.

Each program imports the modules of the command line itself, because they look at its output.
Variables that Python reads at its start, such as ``PYTHONUNBUFFERED``, have no effect.
"""

import atexit
import gc
import io
import json
import os
import runpy
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from socket import AF_UNIX, MSG_WAITALL, SHUT_WR, recv_fds, send_fds, socket
from typing import IO, Any

PYTHON = (sys.executable, "-W", "error")

_IMPORTS = (
    "click",
    "rich",
    "waggle_fsstore.server.http",
    "waggle_fsstore.server.stdio",
)

# A keeper sends two: the process id of the program, then its exit code.
_NUMBER = struct.Struct("i")

_address: str | None = None


class Program:
    """A program with pipes to it, and with a part of the interface of ``subprocess.Popen``."""

    def __init__(
        self,
        *arguments: str,
        env: dict[str, str],
        code: str | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        """Start ``code``, or else ``python -m waggle_fsstore``.

        A descriptor that is given replaces the pipe, which is then empty.
        """
        self.args = arguments
        self.returncode: int | None = None
        readable, writable = zip(*(os.pipe() for _ in range(3)), strict=True)
        self.stdin = open(writable[0], "wb")  # noqa: SIM115
        self.stdout = open(readable[1], "rb")  # noqa: SIM115
        self.stderr = open(readable[2], "rb")  # noqa: SIM115
        ends = (readable[0], writable[1], writable[2])
        given = (None, stdout, stderr)
        descriptors = [
            end if other is None else other for end, other in zip(ends, given, strict=True)
        ]
        request = {"arguments": arguments, "env": env, "code": code, "directory": os.getcwd()}
        self._keeper = socket(AF_UNIX)
        self._keeper.connect(address())
        send_fds(self._keeper, [b" "], descriptors)
        self._keeper.sendall(json.dumps(request).encode())
        self._keeper.shutdown(SHUT_WR)
        for end in ends:
            os.close(end)
        self.pid = self._receive()

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code of the program, or minus the number of the signal that ended it."""
        if self.returncode is None:
            self._keeper.settimeout(timeout)
            try:
                self.returncode = self._receive()
            except (BlockingIOError, TimeoutError):
                raise subprocess.TimeoutExpired(self.args, timeout or 0) from None
            self._keeper.close()
        return self.returncode

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, *, timeout: float) -> tuple[bytes, bytes]:
        """Give no further input, return the output, and kill the program if it does not end."""
        self.stdin.close()
        with ThreadPoolExecutor() as pool:
            reads = [pool.submit(_read, pipe) for pipe in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            finally:
                self.kill()
            output, errors = (read.result() for read in reads)
        return output, errors

    def _receive(self) -> int:
        received = self._keeper.recv(_NUMBER.size, MSG_WAITALL)
        assert received, "the fork server ended: see its standard error"
        number: int
        (number,) = _NUMBER.unpack(received)
        return number


def _read(pipe: IO[bytes]) -> bytes:
    """Return the rest of the output, unless the test has closed the pipe."""
    if pipe.closed:
        return b""
    with pipe:
        return pipe.read()


def address() -> str:
    """Return the address of the fork server, which is started first if this process has none."""
    global _address
    if _address is None:
        _address = _start()
    return _address


def use(address: str) -> None:
    """Use the fork server of another process."""
    global _address
    _address = address


def _start() -> str:
    path = os.path.join(tempfile.mkdtemp(), "socket")
    with socket(AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        server = subprocess.Popen(
            [*PYTHON, "-m", "tests.fork_server", str(listener.fileno())],
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=[listener.fileno()],
            start_new_session=True,
        )
    # The server ends with its input. So it does if this process is killed.
    atexit.register(server.communicate)
    return path


def _next_program(listener: socket) -> dict[str, Any] | None:
    """Fork programs; return the request in each of them, and None at the end of the input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Keepers vanish when they end.
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            shutil.rmtree(os.path.dirname(listener.getsockname()))
            return None
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            return _keep(connection)
        connection.close()


def _keep(connection: socket) -> dict[str, Any]:
    """Fork a program, and return the request in it; report its end in the keeper."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, descriptors, _, _ = recv_fds(connection, 1, 3)
    with connection, connection.makefile("rb") as file:
        request: dict[str, Any] = json.load(file)
        pid = os.fork()
        for number, descriptor in enumerate(descriptors):
            if pid == 0:
                os.dup2(descriptor, number)
            os.close(descriptor)
        if pid == 0:
            return request
        with suppress(BrokenPipeError):  # The caller has ended.
            connection.sendall(_NUMBER.pack(pid))
            _, status = os.waitpid(pid, 0)
            connection.sendall(_NUMBER.pack(os.waitstatus_to_exitcode(status)))
    os._exit(0)


def _run(request: dict[str, Any]) -> None:
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["env"])
    sys.argv = ["-c", *request["arguments"]]
    for stream in (sys.stdout, sys.stderr):
        assert isinstance(stream, io.TextIOWrapper)
        stream.reconfigure(line_buffering=stream is sys.stderr or stream.isatty())
    if request["code"] is None:
        runpy.run_module("waggle_fsstore", run_name="__main__", alter_sys=True)
    else:
        exec(request["code"], {"__name__": "__main__"})  # noqa: S102


def _main() -> None:
    for module in _IMPORTS:
        import_module(module)
    gc.freeze()  # So that collections copy no pages that the programs share.
    with socket(fileno=int(sys.argv[1])) as listener:
        listener.set_inheritable(False)
        request = _next_program(listener)
    if request is not None:
        _run(request)


if __name__ == "__main__":
    _main()
