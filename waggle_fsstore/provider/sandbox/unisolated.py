# SPDX-License-Identifier: Apache-2.0
"""Running programs without isolation, as the user of the server: only where an operator asks."""

import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from typing import Final, NamedTuple

from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.domain.execution import Execution, Stop
from waggle_fsstore.domain.workspace_file import SANDBOX_HOME
from waggle_fsstore.provider.sandbox.limits import Limits
from waggle_fsstore.provider.sandbox.output import Streams
from waggle_fsstore.provider.sandbox.process import WATCH_INTERVAL_S, standard_streams
from waggle_fsstore.provider.sandbox.sandbox import Task, limited, variables
from waggle_fsstore.provider.sandbox.view import CODE_DIR, Programs

_SIGNAL_BASE: Final = 128  # As shells report a signal that ended a program.


class Unisolated(NamedTuple):
    """Runs programs as the user of the server, who can see and change all that this user can.

    They have a clean environment, their time limit, and the limits of the kernel. What leaves its
    process group continues to run: only a sandbox prevents that.
    """

    programs: Programs

    @property
    def user(self) -> tuple[int, int] | None:
        """The user and group that programs run as: those of this process."""
        return None

    def run(
        self, task: Task, limits: Limits, timeout_s: float, check: Callable[[], Stop]
    ) -> Execution:
        """Run a program; see :meth:`Sandbox.run`. Paths inside become those here."""
        with tempfile.TemporaryDirectory(prefix="waggle-code-") as directory:
            for name, content in task.code.items():
                with open(os.path.join(directory, name), "wb") as file:
                    file.write(content)
            places = {**task.readable, **task.mounts, CODE_DIR: directory}
            home = places.setdefault(SANDBOX_HOME, directory)

            # At once, because the paths here may have parts such as /tmp.
            inside = "|".join(map(re.escape, places))
            find = re.compile(rf"(?<![\w.-])(?:{inside})(?![\w.-])")

            def placed(text: str) -> str:
                return find.sub(lambda found: places[found[0]], text)

            values = {**variables(self.programs), **task.variables}
            stdin, stdout, stderr = standard_streams(task.stdio)
            process = subprocess.Popen(  # noqa: S603  # The operator wants this.
                [*limited(limits), *map(placed, task.command)],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env={name: placed(value) for name, value in values.items()},
                cwd=home,
                start_new_session=True,
            )
            return _watch(process, limits, timeout_s, check)


def _watch(
    process: "subprocess.Popen[bytes]", limits: Limits, timeout_s: float, check: Callable[[], Stop]
) -> Execution:
    """Read what a program writes until its end, and end its process group."""
    with process, ExitStack() as cleanup:
        cleanup.callback(_end, process)
        # The end of the program is seen at the next look: what it started may hold a pipe open.
        never, end = os.pipe()
        for descriptor in (never, end):
            cleanup.callback(os.close, descriptor)
        streams = cleanup.enter_context(
            closing(Streams(process.stdout, process.stderr, limits.output_bytes))
        )
        begun = monotonic()
        stopped = Stop.NONE
        try:
            while process.poll() is None and not stopped:
                streams.read(monotonic() + WATCH_INTERVAL_S, never)
                stopped = check()
                if monotonic() - begun >= timeout_s:
                    stopped = stopped or Stop.TIMEOUT
                if streams.size > limits.total_output_bytes:
                    stopped = stopped or Stop.OUTPUT
            duration_s = monotonic() - begun
        finally:
            _end(process)
        streams.read_rest()
        code = process.returncode
        return streams.execution(_SIGNAL_BASE - code if code < 0 else code, duration_s, stopped)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End what is left of the process group of a program."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
