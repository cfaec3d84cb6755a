# SPDX-License-Identifier: Apache-2.0
"""Running a program in a process group of its own, so that it can be stopped as a whole."""

import os
import signal
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from waggle_fsstore.domain.at_fork import register_at_fork

if TYPE_CHECKING:
    from subprocess import Popen

#: How many seconds a program has to end by itself.
_GRACE: Final = 1.0


class Running:
    """The programs that run at the moment, each under the folder that it works in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Both under the lock: nothing is started that a close or a stop does not see.
        self._closed = False
        self._groups: dict[str, Popen[bytes]] = {}
        register_at_fork(self)

    def reset_after_fork(self) -> None:
        """In a child: the programs are the parent's, and not to be ended from here."""
        self._lock = threading.Lock()
        self._groups = {}

    @property
    def is_closed(self) -> bool:
        """Whether nothing is to run any more."""
        return self._closed

    def run(self, command: list[str], *, folder: str, path: str, timeout: float) -> None:
        """Run a program in a folder to its end, for at most ``timeout`` seconds.

        It inherits no environment variable: it has ``path``, the search path, and puts
        temporary files into the folder. Its files are private.
        Whatever ends this early, an interrupt too, ends the program. Raises
        ``subprocess.CalledProcessError``, also if it was stopped or this is closed, or
        ``TimeoutExpired``; their ``output`` is what the program wrote.
        """
        import subprocess  # Takes 5 ms, and is needed only here.

        process = None
        try:
            with self._lock:
                if self._closed:
                    raise subprocess.CalledProcessError(-signal.SIGTERM, command, b"")
                process = self._groups[folder] = subprocess.Popen(  # noqa: S603  # No shell.
                    command,
                    cwd=folder,
                    # Temporary files of a killed program go with the folder.
                    env={"PATH": path, "TMPDIR": folder},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    umask=0o077,
                )
            output, _ = process.communicate(timeout=timeout)
        except BaseException:
            if process is not None:
                _stop([process])
            raise
        finally:
            if process is not None and process.stdout is not None:
                process.stdout.close()
            with self._lock:
                self._groups.pop(folder, None)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command, output)

    def stop(self, folder: str) -> None:
        """End the program that works in a folder, if there is one."""
        with self._lock:
            groups = [self._groups[folder]] if folder in self._groups else []
        _stop(groups)

    def close(self) -> None:
        """End all programs, and run no more."""
        with self._lock:
            self._closed = True
            groups = list(self._groups.values())
        _stop(groups)


def _stop(groups: Iterable["Popen[bytes]"]) -> None:
    """Ask all to end, and kill after a while what did not; none is left as a zombie."""
    from subprocess import TimeoutExpired

    for process in groups:
        _signal(process, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for process in groups:
        with suppress(TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
    for process in groups:
        # The whole group, also if the one that leads it has ended.
        _signal(process, signal.SIGKILL)
        process.wait()


def _signal(process: "Popen[bytes]", number: signal.Signals) -> None:
    # macOS denies it where all that is left of the group is waiting to be reaped.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
