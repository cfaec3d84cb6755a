# SPDX-License-Identifier: Apache-2.0
"""The order in which a change reaches the disk."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.store.journals import FIRST_SEGMENT
from tests.store.originals import originals
from tests.store.recorder import Call, record
from waggle_fsstore import EnvironmentNotFoundError, FileStore
from waggle_fsstore.store.fs import disk
from waggle_fsstore.testing import make_environment


@pytest.fixture
def store(durable_store: FileStore) -> FileStore:
    """A durable store with one document, "other"."""
    durable_store.save(make_environment(id="other"))
    return durable_store


def test_save_syncs_once_between_staging_and_publishing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is staged, the line is durable before the file gets its name, and that is all."""
    recorder = record(monkeypatch)
    store.save(make_environment(id="a"))
    assert recorder.names() == [
        "pwrite lock",
        "pwrite TEMP",
        f"pwrite {FIRST_SEGMENT}",
        f"fdatasync {FIRST_SEGMENT}",
        "pwrite state",
        "replace TEMP a.json",
        "pwrite state",
    ]


def test_save_over_old_version_syncs_alike(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replacing is no shortcut: a document is never written in place."""
    recorder = record(monkeypatch)
    store.save(make_environment(id="other"))
    assert recorder.names()[1:] == [
        "pwrite TEMP",
        f"pwrite {FIRST_SEGMENT}",
        f"fdatasync {FIRST_SEGMENT}",
        "pwrite state",
        "replace TEMP other.json",
        "pwrite state",
    ]


def test_save_all_syncs_once(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole batch is one line and one fsync."""
    recorder = record(monkeypatch)
    store.save_all([make_environment(id="a"), make_environment(id="b")])
    assert recorder.names()[1:] == [
        *["pwrite TEMP"] * 2,
        f"pwrite {FIRST_SEGMENT}",
        f"fdatasync {FIRST_SEGMENT}",
        "pwrite state",
        "replace TEMP a.json",
        "replace TEMP b.json",
        "pwrite state",
    ]


def test_delete_syncs_once(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is durable before the document is removed."""
    recorder = record(monkeypatch)
    store.delete("other")
    assert recorder.names()[1:] == [
        f"pwrite {FIRST_SEGMENT}",
        f"fdatasync {FIRST_SEGMENT}",
        "pwrite state",
        "unlink other.json",
        "pwrite state",
    ]


def test_quarantine_syncs_lost_and_found(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The journal does not contain a corrupt document, so its new directory is synced."""
    store.document_path("other").write_text("{")
    recorder = record(monkeypatch)
    store.delete("other")
    assert recorder.names()[-3:] == [
        "replace other.json other.2.json",
        "fsync lost+found",
        "pwrite state",
    ]


def test_rotation_makes_new_segment_durable_before_use(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old segment is truncated first; the new one is a temp file that is synced and renamed."""
    large = make_environment(id="a", extra={"padding": "x" * 40_000})
    store.save(large)
    recorder = record(monkeypatch)
    store.save(large)
    assert recorder.names()[1:10] == [
        "pwrite TEMP",
        f"ftruncate {FIRST_SEGMENT}",
        "pwrite TEMP",
        "fdatasync TEMP",
        "replace TEMP 0000000000000003.jsonl",
        "fsync journal",
        "pwrite 0000000000000003.jsonl",
        "fdatasync 0000000000000003.jsonl",
        "pwrite state",
    ]


def test_checkpoint_follows_durable_documents(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing syncs the changed documents and their directory before it writes the checkpoint."""
    store.save(make_environment(id="a"))
    recorder = record(monkeypatch)
    store.close()
    calls = recorder.names()
    said = calls.index(f"pwrite {FIRST_SEGMENT}")
    assert {"fdatasync a.json", "fdatasync other.json", "fsync environments"} <= set(calls[:said])
    assert calls[said + 1 :] == [f"fdatasync {FIRST_SEGMENT}", "pwrite state"]


def test_checkpoint_of_many_syncs_file_system(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 64 documents are synced by one call for all."""
    # Small, so that the first segment has room for all.
    store.save_all([make_environment(id=f"a{n}", capabilities=None) for n in range(64)])
    flushed: list[int] = []
    monkeypatch.setattr(disk, "_syncfs", flushed.append)
    monkeypatch.setattr(disk, "can_syncfs", lambda _: True)
    recorder = record(monkeypatch)
    store.close()
    assert len(flushed) == 1
    calls = [name for name in recorder.names() if name.startswith("f")]
    assert calls == [f"fdatasync {FIRST_SEGMENT}"]


def test_checkpoint_without_syncfs_syncs_each_file(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system whose syncfs is not known to be reliable, each file is synced."""
    # Small, so that the first segment has room for all.
    store.save_all([make_environment(id=f"a{n}", capabilities=None) for n in range(70)])
    monkeypatch.setattr(disk, "can_syncfs", lambda _: False)
    recorder = record(monkeypatch)
    store.close()
    assert {f"fdatasync a{n}.json" for n in range(70)} <= set(recorder.names())


@pytest.mark.parametrize("finisher", ["the same", "another handle"])
def test_failed_fsync_rewrites_documents(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, finisher: str
) -> None:
    """No checkpoint trusts a file whose fsync failed, whichever process writes the checkpoint."""
    store.save(make_environment(id="a"))
    broken = [True]

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        if call.name == "fdatasync" and broken[0] and call.files[0] in ("a.json", "TEMP"):
            raise OSError(errno.EIO, "Input/output error")
        return perform()

    recorder = record(monkeypatch, spoil)
    with originals(store.document_path("a")) as same:
        with pytest.raises(OSError, match="Input/output error"):
            store._writer.checkpoint()
        assert same() == [store.document_path("a")]
        broken[0] = False
        del recorder.calls[:]
        finishing = store if finisher == "the same" else FileStore(store.path)
        finishing.save(make_environment(id="b"))
        finishing.close()
        calls = recorder.names()
        rewrite = calls.index("replace TEMP a.json")
        assert calls[rewrite - 1] == "fdatasync TEMP"
        assert same() == []


def test_close_without_change_syncs_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing a reader, or a writer that wrote nothing, costs no checkpoint."""
    store.close()
    again = FileStore(store.path)
    again.find_all()
    with pytest.raises(EnvironmentNotFoundError):
        again.delete("missing")
    recorder = record(monkeypatch)
    again.close()
    assert recorder.names() == []


def test_initialization_syncs_every_directory_and_marker_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new store is durable up to the existing directory before its marker is written."""
    recorder = record(monkeypatch)
    store = FileStore(tmp_path / "new" / "store")
    store.save(make_environment(id="a"))
    calls = recorder.names()
    marker = calls.index("replace TEMP waggle.json")
    above = calls[:marker]
    for parent, made in [
        (tmp_path.name, "new"),
        ("new", "store"),
        ("store", ".waggle"),
        (".waggle", "tmp"),
        ("store", "environments"),
    ]:
        assert f"fsync {parent}" in above[above.index(f"mkdir {made}") :]
    assert above[-1] == "fdatasync TEMP"
    assert calls[marker + 1] == "fsync store"
    assert calls.index("replace TEMP a.json") > marker


def test_unsynced_directories_are_synced_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Directories that a killed initialization left unsynced are synced by the next one."""
    (tmp_path / "new" / "store" / ".waggle").mkdir(parents=True)
    recorder = record(monkeypatch)
    FileStore(tmp_path / "new" / "store").save(make_environment(id="a"))
    calls = recorder.names()
    before = calls[: calls.index("replace TEMP waggle.json")]
    assert {"fsync store", "fsync new", f"fsync {tmp_path.name}"} <= set(before)


def test_non_durable_store_syncs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``durable=False`` skips every fsync, and still never writes in place."""
    recorder = record(monkeypatch)
    store = FileStore(tmp_path / "store", durable=False)
    store.save(make_environment(id="a"))
    store.delete("a")
    assert not {"fsync", "fdatasync"} & {call.name for call in recorder.calls}
    assert "replace TEMP a.json" in recorder.names()


def test_directories_above_mount_point_are_not_synced(monkeypatch: pytest.MonkeyPatch) -> None:
    """No directory above the mount point of the store's file system is synced."""
    shared = Path("/dev/shm")  # noqa: S108  # a file system of its own on Linux
    if not os.access(shared, os.W_OK) or not shared.is_mount():
        pytest.skip("needs /dev/shm")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        recorder = record(monkeypatch)
        FileStore(Path(folder) / "store").save(make_environment(id="a"))
        monkeypatch.undo()
    flushed = {call.files[0] for call in recorder.calls if call.name == "fsync"}
    assert {"shm", Path(folder).name, "store"} <= flushed
    assert not {"dev", ""} & flushed


def test_rights_of_a_new_segment_are_synced_with_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power cut, the service can read what it, or root, has written."""
    before = os.umask(0o277)
    try:
        recorder = record(monkeypatch)
        FileStore(root).save(make_environment(id="a"))
    finally:
        os.umask(before)
    names = recorder.names()
    segment = names.index(f"replace TEMP {FIRST_SEGMENT}")
    assert names[segment - 3 : segment] == ["fchmod TEMP", "pwrite TEMP", "fdatasync TEMP"]
