# SPDX-License-Identifier: Apache-2.0
"""The program in a fork of this process: what a test or a fault has patched holds in it too."""

import multiprocessing
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from waggle_fsstore.cli.app import app

_TIMEOUT_S = 30
_forks = multiprocessing.get_context("fork")


class Forked:
    """A program with pipes to it, or with a terminal that is its standard streams."""

    def __init__(
        self,
        *arguments: str,
        stdout: int | None = None,
        terminal: int | None = None,
        one_output: bool = False,
    ) -> None:
        stdin, self.stdin = os.pipe()
        self.stdout, output = os.pipe()
        self.stderr, errors = os.pipe()
        self._ours = [self.stdin, self.stdout, self.stderr]
        ends = (
            stdin,
            output if stdout is None else stdout,
            output if one_output else errors,
        )
        self._process = _forks.Process(target=self._run, args=(arguments, ends, terminal))
        with warnings.catch_warnings():
            # Python 3.12 warns of the threads of xdist, which hold no locks that matter here.
            warnings.simplefilter("ignore", DeprecationWarning)
            self._process.start()
        for end in (stdin, output, errors):
            os.close(end)

    def _run(
        self, arguments: tuple[str, ...], ends: tuple[int, int, int], terminal: int | None
    ) -> None:
        for descriptor in self._ours:
            os.close(descriptor)
        if terminal is not None:
            os.login_tty(os.dup(terminal))
        else:
            for number, end in enumerate(ends):
                os.dup2(end, number)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.stdin = os.fdopen(0, closefd=False)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False)
        app(arguments, prog_name="waggle-fsstore")

    def send_signal(self, number: int) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def close_end(self, descriptor: int) -> None:
        """Close the end of a pipe, unless that has been done."""
        if descriptor in self._ours:
            self._ours.remove(descriptor)
            os.close(descriptor)

    def read_line(self) -> bytes:
        """Return the next line of its output, which it has to write soon."""
        line = b""
        while not line.endswith(b"\n"):
            line += read_soon(self.stdout, 1)
        return line

    def end(self) -> int:
        """Return its exit code."""
        self._process.join(_TIMEOUT_S)
        code = self._process.exitcode
        assert code is not None, "it has not ended"
        return code

    def communicate(self) -> tuple[int, bytes, bytes]:
        """Give no further input; return the exit code and the rest of the output."""
        self.close_end(self.stdin)
        with ThreadPoolExecutor() as pool:
            reads = [pool.submit(_read_all, one) for one in (self.stdout, self.stderr)]
            try:
                code = self.end()
            finally:
                self._process.kill()
        return code, reads[0].result(), reads[1].result()

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        for descriptor in list(self._ours):
            self.close_end(descriptor)


@contextmanager
def forked(
    *arguments: str,
    stdout: int | None = None,
    terminal: int | None = None,
    one_output: bool = False,
) -> Iterator[Forked]:
    """Run the program during the block, at the end of which it is killed if it still runs.

    ``stdout`` and ``terminal`` replace pipes; with ``one_output`` two streams share one.
    """
    program = Forked(*arguments, stdout=stdout, terminal=terminal, one_output=one_output)
    try:
        yield program
    finally:
        program.close()


def read_soon(descriptor: int, size: int) -> bytes:
    """Read what comes within the timeout; fail if nothing does."""
    ready, _, _ = select.select([descriptor], [], [], _TIMEOUT_S)
    assert ready, "nothing was written"
    data = os.read(descriptor, size)
    assert data, "the output has ended"
    return data


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + _TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.01)


def processes_with(text: str) -> dict[int, str]:
    """Return the command lines of this machine's processes with a text in them, by process id."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # It has ended.
            continue
        if text in line:
            found[int(path.parent.name)] = line
    return found


def _read_all(descriptor: int) -> bytes:
    parts = []
    while part := os.read(descriptor, 1 << 16):
        parts.append(part)
    return b"".join(parts)
