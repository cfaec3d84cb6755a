# SPDX-License-Identifier: Apache-2.0
"""Programs, each run in its own process group so that it can be stopped as a whole."""

import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Final, cast

from waggle_fsstore.domain.at_fork import register_at_fork
from waggle_fsstore.domain.clock import monotonic

if TYPE_CHECKING:
    from subprocess import Popen

# How long a program has to end after SIGTERM, before SIGKILL.
_GRACE_PERIOD_S: Final = 1.0

_POLL_INTERVAL_S: Final = 0.001


class ProcessGroups:
    """The running programs, by the directory that each works in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Both under the lock, so that close() and stop() miss no program that is starting.
        self._closed = False
        self._leaders: dict[str, Popen[bytes]] = {}
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """Forget the programs in a forked child: only the parent may stop them."""
        self._lock = threading.Lock()
        self._leaders = {}

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called, after which no program is started."""
        return self._closed

    def run(self, command: list[str], *, directory: str, path: str, timeout: float) -> None:
        """Run a program in a directory until it ends, for at most ``timeout`` seconds.

        It inherits no environment variables: it has ``PATH``, which is ``path``, and
        ``TMPDIR``, which is the directory. Its files are private. Any exception, including
        an interrupt, stops the program. Raises ``subprocess.CalledProcessError``, even if
        the program was stopped or this object is closed, or ``TimeoutExpired``; their
        ``output`` is what the program wrote.
        """
        import subprocess  # Deferred: takes 5 ms, and only this method needs it.

        process = None
        try:
            with self._lock:
                if self._closed:
                    raise subprocess.CalledProcessError(-signal.SIGTERM, command, b"")
                process = self._leaders[directory] = subprocess.Popen(  # noqa: S603  # No shell.
                    command,
                    cwd=directory,
                    # Temp files of a killed program are removed with the directory.
                    env={"PATH": path, "TMPDIR": directory},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    umask=0o077,
                )
            output = _output_of(process, timeout)
        except BaseException:
            if process is not None:
                _stop([process])
            raise
        finally:
            if process is not None and process.stdout is not None:
                process.stdout.close()
            with self._lock:
                self._leaders.pop(directory, None)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, output)

    def stop(self, directory: str) -> None:
        """Stop the program that works in a directory, if there is one."""
        with self._lock:
            leaders = [self._leaders[directory]] if directory in self._leaders else []
        _stop(leaders)

    def close(self) -> None:
        """Stop all programs, and start no more."""
        with self._lock:
            self._closed = True
            leaders = list(self._leaders.values())
        _stop(leaders)


# Tests that freeze the time freeze the timeouts of subprocess too.


def _output_of(process: "Popen[bytes]", timeout: float) -> bytes:
    """Return what a program has written, once it has ended. Raises ``TimeoutExpired``."""
    from selectors import EVENT_READ, DefaultSelector
    from subprocess import TimeoutExpired

    pipe = cast("IO[bytes]", process.stdout)
    deadline = monotonic() + timeout
    output = bytearray()
    with DefaultSelector() as selector:
        selector.register(pipe, EVENT_READ)
        while (remaining := deadline - monotonic()) > 0:
            if selector.select(remaining):
                data = os.read(pipe.fileno(), 65536)
                output += data
                if not data and _wait(process, deadline):
                    return bytes(output)
    raise TimeoutExpired(process.args, timeout, bytes(output))


def _wait(process: "Popen[bytes]", deadline: float) -> bool:
    """Wait for the end of a program, and return whether it ended in time."""
    while process.poll() is None:
        if monotonic() >= deadline:
            return False
        time.sleep(_POLL_INTERVAL_S)
    return True


def _stop(leaders: Iterable["Popen[bytes]"]) -> None:
    """Send SIGTERM to all groups, SIGKILL after the grace period, and reap their leaders."""
    for process in leaders:
        _signal(process, signal.SIGTERM)
    deadline = monotonic() + _GRACE_PERIOD_S
    for process in leaders:
        _wait(process, deadline)
    for process in leaders:
        # To the whole group, which may outlive its leader.
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: "Popen[bytes]", number: signal.Signals) -> None:
    # macOS raises PermissionError if the group consists of unreaped zombies only.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
