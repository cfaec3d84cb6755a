# SPDX-License-Identifier: Apache-2.0
"""The tests of the tests: each planted fault turns a test red."""

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from socket import AF_UNIX, socket

import pytest
from filelock import FileLock

from tests import fork_server, planted

_TESTS = Path(__file__).parent
for _path in sorted(_TESTS.rglob("faults.py")):  # Each registers its faults.
    import_module(".".join(_path.relative_to(_TESTS.parent).with_suffix("").parts))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    """Yield a connection to a process that runs tests with planted faults.

    The workers share it: the first of them to need it starts it.
    """
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent
    address = directory / "server-of-faults"
    lock = FileLock(f"{address}.lock")
    with ExitStack() as stack:
        with lock, socket(AF_UNIX) as connected:
            if not address.exists():
                stack.enter_context(_started(address, lock))
            connected.connect(address.read_text())
            connection = stack.enter_context(Connection(connected.detach()))
        connection.send(fork_server.address())
        yield connection


@contextmanager
def _started(address: Path, lock: FileLock) -> Iterator[None]:
    """Start a server of faults, whose address is in the file until the server ends."""
    files = sorted({fault.test.partition("::")[0] for fault in planted.FAULTS.values()})
    ours, theirs = multiprocessing.Pipe()
    with ours, tempfile.TemporaryDirectory() as directory:
        with theirs, socket(AF_UNIX) as listener:
            listener.bind(f"{directory}/socket")
            listener.listen()
            process = multiprocessing.get_context("spawn").Process(
                target=planted.serve, args=(listener, theirs, files)
            )
            process.start()
        address.write_text(f"{directory}/socket")
        yield
        with lock:
            address.unlink()
    process.join()


def _check(fault: planted.Fault, server: Connection, directory: Path) -> None:
    """Fail unless the test of the fault failed, and skip if it was skipped."""
    server.send((fault, str(directory)))
    assert server.recv() == 0, "the process with the fault has not reached the end of the test"
    reports = [planted.Report(*it) for it in json.loads((directory / planted.REPORTS).read_text())]
    failed = [report.phase for report in reports if report.outcome == "failed"]
    skipped = [report.text for report in reports if report.outcome == "skipped"]
    if skipped and not failed:
        pytest.skip(f"needs a test that was skipped here: {skipped[-1]}")
    assert failed == ["call"], reports


@pytest.mark.parametrize("name", planted.FAULTS)
def test_planted_fault_is_caught(name: str, server: Connection, tmp_path: Path) -> None:
    """The guarantee that the fault breaks has a test that fails without it."""
    _check(planted.FAULTS[name], server, tmp_path)


def _end_process(_: planted.Patch) -> None:
    os._exit(1)


def _break_set_up(patch: planted.Patch) -> None:
    patch.delattr("pytest.MonkeyPatch.delenv")


@pytest.mark.parametrize(
    ("plant", "test", "reason"),
    [
        (planted.nothing, "test_document_bytes_are_the_format", r"\[\] == "),
        (planted.nothing, "test_that_does_not_exist", r"\[\] == "),
        (_break_set_up, "test_document_bytes_are_the_format", r"\['setup'"),
        (_end_process, "test_document_bytes_are_the_format", "has not reached the end"),
    ],
)
def test_fault_without_failing_test_is_not_caught(
    plant: Callable[[planted.Patch], None],
    test: str,
    reason: str,
    server: Connection,
    tmp_path: Path,
) -> None:
    """A test that passes, is missing, or ends before its call, has not caught the fault."""
    fault = planted.Fault(plant, f"tests/store/format/test_codec.py::{test}")
    with pytest.raises(AssertionError, match=reason):
        _check(fault, server, tmp_path)
