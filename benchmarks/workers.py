# SPDX-License-Identifier: Apache-2.0
"""Several processes that begin to work at the same time."""

import subprocess
import sys
from typing import Final

_READY: Final = "ready\n"


def run_together(programs: list[list[str]]) -> list[str]:
    """Start all programs, let them begin once each is ready, and return what they print then."""
    running = [
        subprocess.Popen(  # noqa: S603  # a module of the benchmarks
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for program in programs
    ]
    for process in running:
        if process.stdout is None or process.stdout.readline() != _READY:
            raise RuntimeError(f"{process.args!r} could not open its store")
    for process in running:
        if process.stdin is not None:
            process.stdin.write("begin\n")
            process.stdin.flush()
    return [process.communicate()[0] for process in running]


def wait_for_the_others() -> None:
    """Say that this process is ready, and return when all are."""
    print(_READY, end="", flush=True)
    sys.stdin.readline()
