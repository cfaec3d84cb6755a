# SPDX-License-Identifier: Apache-2.0
"""One program in a sandbox: started, watched and stopped, with all that it has started."""

import os
import re
import select
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.execution import Execution, Stdio, Stop
from waggle_fsstore.provider.sandbox.limits import Limits, MemoryWatch, UnlinkedWatch, descendants
from waggle_fsstore.provider.sandbox.output import Streams

#: The time between two looks at what a program uses.
WATCH_INTERVAL_S: Final = 0.05

# How long bubblewrap may take to set up a sandbox, on a machine that is busy.
_SETUP_TIMEOUT_S: Final = 20.0

# How long the kernel may take to end a killed process.
_END_TIMEOUT_S: Final = 20.0

_READ_BYTES: Final = 65_536

# The most likely victim where the memory of the machine runs out, and the last to get the CPU.
_OOM_SCORE: Final = b"900"
_NICENESS: Final = 10


_READY: Final = b"ready\n"

_find_child: Final = re.compile(rb'"child-pid": ?(\d+)\D').findall
_find_exit_code: Final = re.compile(rb'"exit-code": ?(\d+)\D').findall


class SetupError(Exception):
    """The sandbox could not be set up; the text is that of bubblewrap."""


class Pipes(NamedTuple):
    """The server's ends of the pipes between it and bubblewrap.

    - ``status``: bubblewrap writes the id of the first process and the exit code to this pipe.
    - ``hold``: the program starts once a byte is written here.
    """

    status: int
    hold: int


class SandboxProcess:
    """A program that runs in a sandbox. Belongs to one thread: bubblewrap dies with it.

    ``command`` is that of bubblewrap, which inherits the descriptors ``inherited``. It starts
    another one if the sandbox ``is_nested``. The program asks on its standard output to begin if
    it ``is_asked``; else bubblewrap waits. ``directory`` is one that it may write to, "" for none.
    ``name`` is that of its first process.
    """

    def __init__(
        self,
        command: list[str],
        inherited: Iterable[int],
        pipes: Pipes,
        limits: Limits,
        is_nested: bool,
        stdio: Stdio,
        *,
        is_asked: bool,
        directory: str,
        name: str,
    ) -> None:
        self._is_asked = is_asked
        self._directory = directory
        self._status = b""
        self._layers = 2 if is_nested else 1
        self._pipes = pipes
        self._limits = limits
        stdin, stdout, stderr = standard_streams(stdio)
        self._process = subprocess.Popen(  # noqa: S603  # No shell, and an empty environment.
            [name, *command[1:]],
            executable=command[0],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={"PATH": os.defpath},
            cwd="/",
            start_new_session=True,
            pass_fds=tuple(inherited),
        )
        try:
            self._streams = Streams(self._process.stdout, self._process.stderr, limits.output_bytes)
        except BaseException:
            self._end(-1)
            raise

    def run(self, timeout_s: float, check: Callable[[], Stop], opened: Iterable[int]) -> Execution:
        """Run it until its end, until ``timeout_s``, or until ``check`` returns a reason.

        Closes the descriptors that were ``opened`` for bubblewrap. Raises :class:`SetupError`.
        Nothing of it runs afterwards, also if this raises.
        """
        init = -1
        with ExitStack() as closing:
            closing.callback(self._streams.close)
            closing.callback(os.close, self._pipes.status)
            closing.callback(self._close_hold)
            try:
                for descriptor in opened:
                    os.close(descriptor)
                process_id = self._wait_for_start()
                init = os.pidfd_open(process_id)
                closing.callback(os.close, init)
                for one in descendants(process_id):
                    _subdue(one)
                checks = [check, *self._watches(process_id)]
                begun = monotonic()
                os.write(self._pipes.hold, b"go\n")
                self._close_hold()
                stopped = self._watch(begun + timeout_s, checks)
                duration_s = monotonic() - begun
            finally:
                self._end(init)
            self._streams.read_rest()
            self._read_status()
        codes = _find_exit_code(self._status)
        if not codes and not stopped:
            raise SetupError(self._streams.stderr.text().strip() or "bubblewrap ended early")
        return self._streams.execution(int(codes[0]) if codes else -1, duration_s, stopped)

    def _watches(self, process_id: int) -> Iterator[Callable[[], Stop]]:
        yield MemoryWatch(process_id, self._limits.memory_bytes).check
        if self._directory:
            yield UnlinkedWatch(process_id, self._directory, self._limits.disk_bytes).check

    def _wait_for_start(self) -> int:
        """Return the id of the first process of the outermost sandbox; the program is waiting.

        The ids that an inner one reports are those of its namespace.
        """
        deadline = monotonic() + _SETUP_TIMEOUT_S
        while len(found := _find_child(self._status)) < self._layers or (
            self._is_asked and not self._streams.take(_READY)
        ):
            is_ready = self._streams.read(deadline, self._pipes.status)
            if (is_ready and not self._read_status()) or monotonic() >= deadline:
                self._end(-1)
                self._streams.read_rest()
                text = self._streams.stdout.text() + self._streams.stderr.text()
                raise SetupError(text.strip() or "bubblewrap did not start")
        return int(found[0])

    def _watch(self, deadline: float, checks: list[Callable[[], Stop]]) -> Stop:
        """Read what the program writes until its end; return why it has to be stopped, if so."""
        next_look = monotonic() + WATCH_INTERVAL_S
        while not _find_exit_code(self._status):
            is_ready = self._streams.read(min(next_look, deadline), self._pipes.status)
            if is_ready and not self._read_status():
                return Stop.NONE
            now = monotonic()
            if now >= next_look:
                next_look = now + WATCH_INTERVAL_S
                for check in checks:
                    if stopped := check():
                        return stopped
            if now >= deadline:
                return Stop.TIMEOUT
            if self._streams.size > self._limits.total_output_bytes:
                return Stop.OUTPUT
        return Stop.NONE

    def _read_status(self) -> bool:
        """Read what bubblewrap reports; return whether it may report more."""
        os.set_blocking(self._pipes.status, False)
        with suppress(BlockingIOError):
            while data := os.read(self._pipes.status, _READ_BYTES):
                self._status += data
            return False
        return True

    def _close_hold(self) -> None:
        if self._pipes.hold >= 0:
            os.close(self._pipes.hold)
            self._pipes = self._pipes._replace(hold=-1)

    def _end(self, init: int) -> None:
        """Kill the first process of the sandbox, and with it all others; wait for their end."""
        if init >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(init, signal.SIGKILL)
            poll = select.poll()
            poll.register(init, select.POLLIN)
            poll.poll(_END_TIMEOUT_S * 1000)
        elif self._process.returncode is None:  # Else the id may be that of another process.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        # Not before, because bubblewrap starts the program where this pipe ends.
        self._close_hold()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if init >= 0:
            _reap(init)


def standard_streams(stdio: Stdio) -> tuple[int, int, int]:
    """Return what ``Popen`` takes for stdin, stdout and stderr: pipes for what is kept."""
    return (
        subprocess.DEVNULL if stdio.stdin is None else stdio.stdin,
        subprocess.PIPE if stdio.stdout is None else stdio.stdout,
        subprocess.PIPE if stdio.stderr is None else stdio.stderr,
    )


def _reap(init: int) -> None:
    """Take the exit code of the first process of a sandbox, if that has become a child of this one.

    Bubblewrap leaves it to the first process of the machine. In a container that may be this
    process, and each program would leave a zombie.
    """
    with suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, init, os.WEXITED | os.WNOHANG)


def _subdue(process_id: int) -> None:
    """Let the machine prefer all other programs to this one."""
    with suppress(OSError), open(f"/proc/{process_id}/oom_score_adj", "wb", buffering=0) as file:
        file.write(_OOM_SCORE)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process_id, _NICENESS)
