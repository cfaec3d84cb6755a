# SPDX-License-Identifier: Apache-2.0
"""What passes between this program and one in a sandbox: its streams, and signals.

The program gets pipes, and never the descriptors of this one: through its own terminal or files
it could do more than read and write them.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, TextIO

from waggle_fsstore.domain.execution import Stdio

READ_BYTES: Final = 65_536

#: Once a program has ended, no more than this is passed on: a pipe has less (pipe(7)), unless
#: something that was not isolated still writes to it.
MAX_REST_BYTES: Final = 1 << 20

#: How long it may take to notice that a program has ended, if others keep its streams open.
LOOK_INTERVAL_MS: Final = 100

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Yield a list to which the signals that would end this process are added.

    After the first one, another raises ``KeyboardInterrupt``.
    """
    received: list[int] = []

    def note(number: int, _: object) -> None:
        received.append(number)
        if len(received) > 1:
            raise KeyboardInterrupt

    with ExitStack() as restoring:
        for number in _SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:  # As nohup does.
                restoring.callback(signal.signal, number, before)
                signal.signal(number, note)
        yield received


@contextmanager
def passed_on(*, has_stdin: bool) -> Iterator[Stdio]:
    """Yield descriptors for a program, and pass on what it reads and writes as it comes.

    All that was written is passed on when the block ends. A reader who is gone is gone for the
    program as well. Raises ``OSError`` for output that cannot be written, as on a full disk.
    """
    with ExitStack() as closing:
        outputs = [_Output(sys.stdout, "standard output")]
        if not _are_same(sys.stdout, sys.stderr):  # Else what is written to both keeps its order.
            outputs.append(_Output(sys.stderr, "standard error"))
        for output in outputs:
            output.start()
            closing.callback(output.finish)
        stdin = _started_input(closing) if has_stdin else None
        yield Stdio(stdin, outputs[0].end, outputs[-1].end)


class _Copy(threading.Thread):
    """Copies all that comes from one descriptor to another. It is not waited for at the exit."""

    def __init__(self, source: int, target: int | None, pipe: int, name: str) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._target = target
        self._pipe = pipe
        self._name = name
        self.has_program_ended = False
        self.error: OSError | None = None

    def run(self) -> None:
        try:
            self._copy()
        except BrokenPipeError:
            pass  # Its reader has seen enough.
        except OSError as error:
            error.filename = self._name
            self.error = error
        finally:
            os.close(self._pipe)

    def _copy(self) -> None:
        poll = select.poll()
        poll.register(self._source, select.POLLIN)
        rest = MAX_REST_BYTES
        while rest > 0:
            is_rest = self.has_program_ended  # Before the look, which then finds all of it.
            if poll.poll(LOOK_INTERVAL_MS):
                data = os.read(self._source, READ_BYTES)
                if not data:
                    return
                if self._target is not None:
                    write_all(self._target, data)
                rest -= len(data) if is_rest else 0
            elif is_rest:
                return


class _Output(_Copy):
    """Copies what a program writes to ``end`` to a stream of this process, if that is open."""

    def __init__(self, stream: TextIO | None, name: str) -> None:
        source, self.end = os.pipe()
        target = None if stream is None else stream.fileno()
        super().__init__(source, target, source, name)

    def finish(self) -> None:
        """Wait until all is copied, now that the program has ended."""
        self.has_program_ended = True
        os.close(self.end)
        self.join()
        if self.error is not None:
            raise self.error


def _started_input(closing: ExitStack) -> int:
    """Return the end of a pipe to which standard input is copied."""
    end, target = os.pipe()
    closing.callback(os.close, end)
    _Copy(sys.stdin.fileno(), target, target, "standard input").start()
    return end


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of the data, however long that takes."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _are_same(one: Any, other: Any) -> bool:
    is_open = one is not None and other is not None
    return is_open and os.path.sameopenfile(one.fileno(), other.fileno())
