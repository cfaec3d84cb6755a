# SPDX-License-Identifier: Apache-2.0
"""The recorder: what disk.py does is what the model is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.crash.file_tree import files_in
from tests.crash.model import FileSystem
from tests.crash.operations import (
    Create,
    FailedFlush,
    Flush,
    FlushAll,
    MakeFolder,
    RecordingOs,
    Rename,
    Resize,
    Unlink,
    Write,
    recording,
)
from waggle_fsstore.store.fs import disk
from waggle_fsstore.store.fs.disk import Disk, open_to_write


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[RecordingOs]:
    recorder = RecordingOs(tmp_path)
    with recording(recorder):
        yield recorder


def test_disk_operations_are_recorded(
    recorder: RecordingOs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each operation on a file is recorded with the inode that it changed."""
    changer = Disk(durable=True)
    changer.make_dir(str(tmp_path / "d"))
    changer.write_temp(str(tmp_path / "d" / "t"), b"hello")
    changer.replace(str(tmp_path / "d" / "t"), str(tmp_path / "f"))
    descriptor = open_to_write(str(tmp_path / "f"))
    changer.remove(str(tmp_path / "f"))
    changer.truncate(descriptor, 2)
    open_again = open_to_write(str(tmp_path / "f"), recorder.O_CREAT)
    changer.sync(open_again)
    monkeypatch.setattr(disk, "can_syncfs", lambda _: True)
    changer.sync_filesystem(descriptor, "")
    recorder.close(descriptor)
    recorder.close(open_again)
    assert recorder.operations == [
        MakeFolder("d", 1),
        Flush(0),
        Create("d/t", 2),
        Resize(2, 5),
        Write(2, 0, b"hello"),
        Flush(2),
        Rename("d/t", "f"),
        Unlink("f"),
        Resize(2, 2),
        Create("f", 3),
        Flush(3),
        FlushAll(),
    ]
    system = FileSystem()
    for operation in recorder.operations:
        system.apply(operation)
    assert system.now().files() == files_in(tmp_path)


def test_injected_failure_happens_once(recorder: RecordingOs, tmp_path: Path) -> None:
    """A call that is made to fail raises, and is recorded as failed."""
    recorder.fail_next("fdatasync")
    with pytest.raises(OSError, match="Input/output error"):
        Disk(durable=True).write_temp(str(tmp_path / "f"), b"hello")
    assert recorder.has_failed
    assert FailedFlush(1) in recorder.operations
    assert Flush(1) not in recorder.operations


def test_unknown_call_is_refused(recorder: RecordingOs) -> None:
    """A new call in disk.py has to be added to the model too."""
    with pytest.raises(AssertionError, match=r"os\.symlink"):
        recorder.symlink("a", "b")


def test_read_only_disk_refuses_changes(recorder: RecordingOs, tmp_path: Path) -> None:
    """Files can be read and synced, and nothing is recorded."""
    changer = Disk(durable=True)
    changer.write_temp(str(tmp_path / "f"), b"hello")
    before = recorder.operations.copy()
    with recorder.read_only():
        changer.sync_file(str(tmp_path / "f"))
        for change in (
            lambda: open_to_write(str(tmp_path / "f")),
            lambda: changer.write_temp(str(tmp_path / "g"), b"hello"),
            lambda: changer.remove(str(tmp_path / "f")),
            lambda: changer.make_dir(str(tmp_path / "d")),
        ):
            with pytest.raises(OSError, match="Read-only file system"):
                change()
    assert recorder.operations == before
    changer.remove(str(tmp_path / "f"))
    assert recorder.operations == [*before, Unlink("f")]
