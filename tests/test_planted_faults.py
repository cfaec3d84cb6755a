# SPDX-License-Identifier: Apache-2.0
"""The tests of the tests: each planted fault turns a test red."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from tests import fork_server, planted

_TESTS = Path(__file__).parent
for _path in sorted(_TESTS.rglob("faults.py")):  # Each registers its faults.
    import_module(".".join(_path.relative_to(_TESTS.parent).with_suffix("").parts))


@pytest.fixture(scope="session")
def server() -> Iterator[Connection]:
    """Yield the connection to a process that runs tests with planted faults."""
    files = sorted({fault.test.partition("::")[0] for fault in planted.FAULTS.values()})
    ours, theirs = multiprocessing.Pipe()
    arguments = (theirs, files, fork_server.address())
    process = multiprocessing.get_context("spawn").Process(target=planted.serve, args=arguments)
    process.start()
    theirs.close()
    with ours:
        yield ours
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
