# SPDX-License-Identifier: Apache-2.0
"""Programs from the fork server: they behave as new processes do, and begin with no state."""

import json
import os
import signal
from pathlib import Path

import pytest

from tests.fork_server import Program

STATE = """
import json, logging, os, signal, sys, threading, warnings
print(json.dumps({
    "arguments": sys.argv[1:],
    "directory": os.getcwd(),
    "environment": dict(os.environ),
    "descriptors": sorted(os.listdir("/proc/self/fd"))[:-1],
    "threads": threading.active_count(),
    "handlers": len(logging.root.handlers),
    "signals": [signal.getsignal(number) for number in (signal.SIGCHLD, signal.SIGTERM)],
    "warnings": warnings.filters[0][0],
    "modules": [name for name in sys.modules if name.startswith(("tests", "waggle_fsstore.cli"))],
}))
"""


def test_program_begins_with_no_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has what it is given, and otherwise what a new interpreter has."""
    monkeypatch.chdir(tmp_path)
    for variables in ({"A": "1"}, {"B": "2"}):
        output, errors = Program("x", "y", env=variables, code=STATE).communicate(timeout=60)
        assert errors == b""
        assert json.loads(output) == {
            "arguments": ["x", "y"],
            "directory": str(tmp_path),
            "environment": variables,
            "descriptors": ["0", "1", "2"],
            "threads": 1,
            "handlers": 0,
            "signals": [signal.SIG_DFL, signal.SIG_DFL],
            "warnings": "error",
            "modules": ["tests"],
        }


def test_program_ends_with_status_and_exit_handlers() -> None:
    """Its exit code is reported after its exit handlers have run and its output is written."""
    code = "import atexit, sys; atexit.register(print, 'last'); print('first'); sys.exit(7)"
    program = Program(env={}, code=code)
    assert program.communicate(timeout=60) == (b"first\nlast\n", b"")
    assert (program.wait(), program.poll(), program.returncode) == (7, 7, 7)


def test_program_with_uncaught_error_prints_traceback() -> None:
    """An error that it does not handle ends it as it ends any program."""
    program = Program(env={}, code="1 / 0")
    _, errors = program.communicate(timeout=60)
    assert errors.splitlines()[-1] == b"ZeroDivisionError: division by zero"
    assert program.returncode == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_program_reports_signal_that_ended_it(number: signal.Signals) -> None:
    """The process that is signalled is the program, which reads its input until then."""
    program = Program(env={}, code="import os; print(os.getpid(), input(), flush=True); input()")
    program.stdin.write(b"ping\n")
    program.stdin.flush()
    assert program.stdout.readline() == f"{program.pid} ping\n".encode()
    assert program.poll() is None
    os.kill(program.pid, number)
    assert program.communicate(timeout=60) == (b"", b"")
    assert program.wait() == -number
