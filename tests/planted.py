# SPDX-License-Identifier: Apache-2.0
"""The registry of planted faults: ways to break the package, and the test that notices each.

A server of faults is a run of pytest that has collected the tests, and runs none. For each
connection it forks a process; that one forks another for each fault, which plants the fault and
runs the test. Imports and collection are shared; every fixture is set up after the fork.
"""

import gc
import json
import multiprocessing
import os
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from socket import socket
from typing import NamedTuple

import pytest

from tests import fork_server

Patch = pytest.MonkeyPatch

# The modules under test may be imported before pytest could rewrite their assertions. A native
# traceback spares a search of every module for the source.
_OPTIONS = (
    "--assert=plain",
    "--tb=native",
    "--continue-on-collection-errors",
    "--hypothesis-profile=faults",
    *(f"-pno:{name}" for name in ("cacheprovider", "randomly", "xdist")),
)
REPORTS = "reports.json"
_TIMEOUT_SECONDS = 300
_forks = multiprocessing.get_context("fork")


class Fault(NamedTuple):
    """How to plant it, and the test that has to turn red."""

    plant: Callable[[Patch], None]
    test: str


class Report(NamedTuple):
    """What came of a phase of the test: ``setup``, ``call`` or ``teardown``."""

    phase: str
    outcome: str
    text: str


FAULTS: dict[str, Fault] = {}


def fault(test: str) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Register a way to plant a fault, and the test that has to turn red.

    The test is imported before. What it imports by name is patched in its own module.
    """

    def register(plant: Callable[[Patch], None]) -> Callable[[Patch], None]:
        assert plant.__name__ not in FAULTS, plant.__name__
        FAULTS[plant.__name__] = Fault(plant, test)
        return plant

    return register


def serve(listener: socket, starter: Connection, files: list[str]) -> None:
    """Collect the files, and accept connections until the starter closes its own.

    First, the address of a fork server arrives through a connection. Then, for each fault and
    directory that arrive, the test of the fault is run; the answer is the exit code of the
    process. The directory has the reports then.
    """
    with open(os.devnull, "w") as null, redirect_stdout(null):
        pytest.main([*_OPTIONS, *files], plugins=[_Server(listener, starter)])


class _Server:
    """The plugin that replaces the loop over all tests."""

    def __init__(self, listener: socket, starter: Connection) -> None:
        self._listener = listener
        self._starter = starter
        self._reports: list[Report] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        gc.freeze()  # So that collections copy no pages that the processes share.
        while self._listener in wait([self._listener, self._starter]):
            accepted, _ = self._listener.accept()
            with Connection(accepted.detach()) as connection:
                _forks.Process(target=self._answer, args=(session.items, connection)).start()
        return True

    def _answer(self, items: list[pytest.Item], connection: Connection) -> None:
        """Run tests for the process at the other end, until it closes the connection."""
        with suppress(EOFError):
            fork_server.use(connection.recv())
            while True:
                process = _forks.Process(target=self._run, args=(items, *connection.recv()))
                process.start()
                process.join(_TIMEOUT_SECONDS)
                process.kill()
                process.join()
                connection.send(process.exitcode)

    def _run(self, items: list[pytest.Item], fault: Fault, directory: str) -> None:
        """Plant the fault in this process, and run its test up to the first failure."""
        os.environ["PYTEST_DEBUG_TEMPROOT"] = directory
        fault.plant(pytest.MonkeyPatch())
        starts = (f"{fault.test}[", f"{fault.test}::")
        for item in items:
            if item.nodeid == fault.test or item.nodeid.startswith(starts):
                item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
                if any(report.outcome == "failed" for report in self._reports):
                    break
        Path(directory, REPORTS).write_text(json.dumps(self._reports))
        os._exit(0)  # Threads of the test may still run.

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._reports.append(Report(report.when or "", report.outcome, report.longreprtext))


def nothing(*_: object, **__: object) -> None:
    """Stand in for a call that a fault leaves out."""
