# SPDX-License-Identifier: Apache-2.0
"""Reads of several processes, while all of them change documents in all ways."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fork_server import Program
from tests.store.read.cache import stress
from waggle_fsstore import FileStore
from waggle_fsstore.store.read import stat_signature

STEPS = int(os.environ.get("WAGGLE_TEST_STEPS", "200"))


@pytest.fixture
def directory(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A directory on the file system of temporary files, or on tmpfs."""
    memory = "/dev/shm"  # noqa: S108  # A file system of its own on Linux.
    if request.param == "in memory" and not os.path.isdir(memory):
        pytest.skip("needs /dev/shm")
    where = memory if request.param == "in memory" else None
    with tempfile.TemporaryDirectory(dir=where) as path:
        yield Path(path)


def test_reads_between_changes_show_the_last(
    root: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Four store objects that change and read in turn show the last change in each read."""
    monkeypatch.setattr(stat_signature, "_SETTLING_TIME_NS", 0)
    notes = memoryview(bytearray(2 * 4 * stress.DOCUMENTS)).cast("I")
    processes = []
    for number in range(stress.PROCESSES):
        store = FileStore(root, durable=False)
        request.addfinalizer(store.close)
        processes.append(stress.Process(store, notes, number))
    for _ in range(STEPS):
        for process in processes:
            process.step()
            assert not process.wrong
    assert all(process.exact == process.reads > STEPS / 2 for process in processes)


@pytest.mark.parametrize(
    ("directory", "watches"),
    [("on disk", ""), ("on disk", "watch"), ("in memory", ""), ("in memory", "watch")],
    ids=["on disk", "on disk by inotify", "in memory", "in memory by inotify"],
    indirect=["directory"],
)
def test_no_read_is_older_than_its_beginning(directory: Path, watches: str) -> None:
    """Each read of four processes shows the last change that ended before it, or a later one."""
    notes = directory / "notes"
    notes.write_bytes(bytes(2 * 4 * stress.DOCUMENTS))
    code = f"from {stress.__name__} import main; main()"
    running = [
        Program(
            *(str(directory / "store"), str(notes), str(number), str(STEPS), watches),
            env=dict(os.environ),
            code=code,
        )
        for number in range(stress.PROCESSES)
    ]
    for one in running:
        assert one.stdout.readline() == b"ready\n", one.communicate(timeout=60)[1].decode()
    for one in running:
        one.stdin.write(b"go\n")
        one.stdin.flush()
    exact = 0
    for one in running:
        output, errors = one.communicate(timeout=600)
        assert one.returncode == 0, errors.decode()
        done, *wrong = output.decode().splitlines()
        assert not wrong
        exact += int(done.split()[2])
    # Most documents are at rest during a read: then only one answer is right.
    assert exact > STEPS
