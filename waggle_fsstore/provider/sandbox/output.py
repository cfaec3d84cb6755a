# SPDX-License-Identifier: Apache-2.0
"""The output of a program, of which the beginning and the end are kept."""

import os
import select
from contextlib import suppress
from typing import IO, Final

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.execution import Execution, Stop

_READ_BYTES: Final = 65_536

# More is in no pipe (pipe(7)), unless something still writes to it.
_MAX_REST_BYTES: Final = 1 << 20


class Output:
    """What a program wrote to one stream: at most ``limit`` bytes of it are kept."""

    def __init__(self, limit: int) -> None:
        self._half = limit // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.size = 0

    def add(self, data: bytes) -> None:
        """Add what was read."""
        self.size += len(data)
        room = self._half - len(self._head)
        if room > 0:
            self._head += data[:room]
            data = data[room:]
        self._tail += data
        if len(self._tail) > 2 * self._half:  # Not each time: what stays is copied.
            del self._tail[: len(self._tail) - self._half]

    def take(self, text: bytes) -> bool:
        """Forget a text, if it is all that was written so far; return whether it was."""
        is_all = self._head == text
        if is_all:
            self._head.clear()
            self.size = 0
        return is_all

    @property
    def is_truncated(self) -> bool:
        """Whether a part is left out."""
        return self.size > 2 * self._half

    def text(self) -> str:
        """Return what is kept, with a line that says how many bytes are left out."""
        if not self.is_truncated:
            return _decoded(bytes(self._head + self._tail))
        tail = bytes(self._tail[len(self._tail) - self._half :])
        gap = f"\n[... {self.size - len(self._head) - len(tail)} bytes left out ...]\n"
        return f"{_decoded(bytes(self._head))}{gap}{_decoded(tail)}"


class Streams:
    """The pipes that a program writes to, and what it wrote.

    A stream without a pipe goes elsewhere, and counts as empty.
    """

    def __init__(self, stdout: IO[bytes] | None, stderr: IO[bytes] | None, limit: int) -> None:
        self.stdout = Output(limit)
        self.stderr = Output(limit)
        outputs = ((stdout, self.stdout), (stderr, self.stderr))
        self._open = {pipe.fileno(): output for pipe, output in outputs if pipe is not None}
        self._pipes = [pipe for pipe in (stdout, stderr) if pipe is not None]

    @property
    def size(self) -> int:
        """How many bytes were written to both."""
        return self.stdout.size + self.stderr.size

    def close(self) -> None:
        """Close the pipes."""
        for pipe in self._pipes:
            pipe.close()

    def take(self, text: bytes) -> bool:
        """Forget a text on standard output, if it is all that was written there so far."""
        return self.stdout.take(text)

    def read(self, until: float, other: int) -> bool:
        """Wait until a time for output, and read it; return whether ``other`` is ready too."""
        poll = select.poll()
        for descriptor in [other, *self._open]:
            poll.register(descriptor, select.POLLIN)
        ready = [found for found, _ in poll.poll(max(0.0, until - monotonic()) * 1000)]
        for descriptor in ready:
            if descriptor in self._open:
                data = os.read(descriptor, _READ_BYTES)
                self._open[descriptor].add(data)
                if not data:
                    del self._open[descriptor]
        return other in ready

    def read_rest(self) -> None:
        """Read what the pipes still hold, now that nothing writes to them any more."""
        for descriptor, output in self._open.items():
            os.set_blocking(descriptor, False)
            rest = _MAX_REST_BYTES
            with suppress(BlockingIOError):
                while rest > 0 and (data := os.read(descriptor, _READ_BYTES)):
                    output.add(data)
                    rest -= len(data)

    def execution(self, exit_code: int, duration_s: float, stopped: Stop) -> Execution:
        """Return what came of the program."""
        return Execution(
            stdout=self.stdout.text(),
            stderr=self.stderr.text(),
            exit_code=-1 if stopped else exit_code,
            duration_ms=round(duration_s * 1000),
            stdout_bytes=self.stdout.size,
            stderr_bytes=self.stderr.size,
            truncated=self.stdout.is_truncated or self.stderr.is_truncated,
            stopped=stopped,
        )


def _decoded(data: bytes) -> str:
    return data.decode(errors="replace")
