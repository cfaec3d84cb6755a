# SPDX-License-Identifier: Apache-2.0
"""One program in a sandbox: started, watched and stopped, with all that it has started."""

import json
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from typing import IO, Final, NamedTuple, cast

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.execution import Execution, Stop
from waggle_fsstore.provider.sandbox.limits import Limits, MemoryWatch
from waggle_fsstore.provider.sandbox.output import Output

# The time between two looks at what a program uses.
_WATCH_INTERVAL_S: Final = 0.05

# How long bubblewrap may take to set up a sandbox, on a machine that is busy.
_SETUP_TIMEOUT_S: Final = 20.0

# How long the kernel may take to end a killed process.
_END_TIMEOUT_S: Final = 20.0

_READ_BYTES: Final = 65_536

# The most likely victim where the memory of the machine runs out, and the last to get the CPU.
_OOM_SCORE: Final = b"900"
_NICENESS: Final = 10


class SetupError(Exception):
    """The sandbox could not be set up; the text is that of bubblewrap."""


class Pipes(NamedTuple):
    """The ends of the pipes between the server and bubblewrap.

    - ``status``: bubblewrap writes the id of the first process and the exit code here.
    - ``hold``: the program starts once a byte is written here.
    """

    status: int
    hold: int


class SandboxProcess:
    """A program that runs in a sandbox. Belongs to one thread: bubblewrap dies with it.

    ``command`` is that of bubblewrap, which inherits the descriptors ``inherited``.
    """

    def __init__(self, command: list[str], inherited: Iterable[int], pipes: Pipes) -> None:
        self._status = b""
        self._pipes = pipes
        self._process = subprocess.Popen(  # noqa: S603  # No shell, and an empty environment.
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={"PATH": os.defpath},
            cwd="/",
            start_new_session=True,
            pass_fds=tuple(inherited),
        )

    def run(
        self, limits: Limits, timeout_s: float, check: Callable[[], Stop], opened: Iterable[int]
    ) -> Execution:
        """Run it until its end, until ``timeout_s``, or until ``check`` returns a reason.

        Closes the descriptors that were ``opened`` for bubblewrap. Raises :class:`SetupError`.
        Whatever happens, nothing of it runs afterwards.
        """
        init = -1
        outputs = Output(limits.output_bytes), Output(limits.output_bytes)
        stdout, stderr = self._process.stdout, self._process.stderr
        streams = {cast("IO[bytes]", stdout).fileno(): outputs[0]}
        streams[cast("IO[bytes]", stderr).fileno()] = outputs[1]
        with ExitStack() as closing:
            for stream in (stdout, stderr):
                closing.enter_context(cast("IO[bytes]", stream))
            closing.callback(os.close, self._pipes.status)
            closing.callback(self._close_hold)
            try:
                for descriptor in opened:
                    os.close(descriptor)
                process_id = self._wait_for_start(streams)
                init = os.pidfd_open(process_id)
                closing.callback(os.close, init)
                _subdue(process_id)
                watch = MemoryWatch(process_id, limits.memory_bytes)
                begun = monotonic()
                os.write(self._pipes.hold, b"\n")
                self._close_hold()
                stopped = self._watch(streams, limits, begun + timeout_s, [check, watch.check])
                duration_s = monotonic() - begun
            finally:
                self._end(init)
            self._read_rest(streams)
        return self._execution(outputs, duration_s, stopped)

    def _close_hold(self) -> None:
        if self._pipes.hold >= 0:
            os.close(self._pipes.hold)
            self._pipes = self._pipes._replace(hold=-1)

    def _wait_for_start(self, streams: dict[int, Output]) -> int:
        """Return the id of the first process of the sandbox, which is waiting."""
        deadline = monotonic() + _SETUP_TIMEOUT_S
        while (process_id := self._reported("child-pid")) is None:
            is_open = self._read_some([self._pipes.status, *streams], streams, deadline)
            if not is_open or monotonic() >= deadline:
                self._end(-1)
                self._read_rest(streams)
                raise SetupError(self._setup_failure(streams))
        return process_id

    def _watch(
        self,
        streams: dict[int, Output],
        limits: Limits,
        deadline: float,
        checks: list[Callable[[], Stop]],
    ) -> Stop:
        """Read what the program writes until its end; return why it has to be stopped, if so."""
        waiting = [self._pipes.status, *streams]
        next_look = monotonic() + _WATCH_INTERVAL_S
        while self._reported("exit-code") is None:
            if not self._read_some(waiting, streams, next_look):
                return Stop.NONE
            now = monotonic()
            if now >= next_look:
                next_look = now + _WATCH_INTERVAL_S
                for check in checks:
                    if stopped := check():
                        return stopped
            if now >= deadline:
                return Stop.TIMEOUT
            if sum(output.size for output in streams.values()) > limits.total_output_bytes:
                return Stop.OUTPUT
        return Stop.NONE

    def _read_some(self, waiting: list[int], streams: dict[int, Output], until: float) -> bool:
        """Read what is there from the streams that are open; return whether bubblewrap runs."""
        timeout = max(0.0, until - monotonic())
        poll = select.poll()
        for descriptor in waiting:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(timeout * 1000):
            data = os.read(descriptor, _READ_BYTES)
            if descriptor in streams:
                streams[descriptor].add(data)
                if not data:
                    waiting.remove(descriptor)
            elif not data:
                return False
            else:
                self._status += data
        return True

    def _read_rest(self, streams: dict[int, Output]) -> None:
        """Read what is still in the pipes; all that could write to them have ended."""
        for descriptor, output in streams.items():
            os.set_blocking(descriptor, False)
            with suppress(BlockingIOError):
                while data := os.read(descriptor, _READ_BYTES):
                    output.add(data)
        os.set_blocking(self._pipes.status, False)
        with suppress(BlockingIOError):
            while data := os.read(self._pipes.status, _READ_BYTES):
                self._status += data

    def _end(self, init: int) -> None:
        """Kill the first process of the sandbox, and with it all others; wait for their end."""
        self._close_hold()
        if init >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(init, signal.SIGKILL)
            poll = select.poll()
            poll.register(init, select.POLLIN)
            poll.poll(_END_TIMEOUT_S * 1000)
        else:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _reported(self, key: str) -> int | None:
        """Return a number that bubblewrap has reported."""
        for line in self._status.splitlines(keepends=True):
            if line.endswith(b"\n") and key.encode() in line:
                value: int = json.loads(line)[key]
                return value
        return None

    def _execution(
        self, outputs: tuple[Output, Output], duration_s: float, stopped: Stop
    ) -> Execution:
        stdout, stderr = outputs
        code = self._reported("exit-code")
        if stopped is Stop.NONE and code is None:
            raise SetupError(stderr.text().strip() or "bubblewrap ended early")
        return Execution(
            stdout=stdout.text(),
            stderr=stderr.text(),
            exit_code=-1 if stopped or code is None else code,
            duration_ms=round(duration_s * 1000),
            stdout_bytes=stdout.size,
            stderr_bytes=stderr.size,
            truncated=stdout.is_truncated or stderr.is_truncated,
            stopped=stopped,
        )

    def _setup_failure(self, streams: dict[int, Output]) -> str:
        text = "".join(output.text() for output in streams.values()).strip()
        return text or "bubblewrap did not start"


def _subdue(process_id: int) -> None:
    """Let the machine prefer all other programs to this one."""
    with suppress(OSError), open(f"/proc/{process_id}/oom_score_adj", "wb", buffering=0) as file:
        file.write(_OOM_SCORE)
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process_id, _NICENESS)
