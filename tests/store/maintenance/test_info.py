# SPDX-License-Identifier: Apache-2.0
"""Info describes the size of a store, its last change, and how it is made durable."""

import builtins
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.store.locks import lock_held
from waggle_fsstore import FileStore, StoreClosedError
from waggle_fsstore.store.fs import linux
from waggle_fsstore.store.maintenance.info import durability
from waggle_fsstore.store.read import stat_signature
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.testing import make_environment


def test_missing_store_is_empty(tmp_path: Path) -> None:
    """The info of a missing store is empty, and does not initialize it."""
    with FileStore(tmp_path / "none") as store:
        info = store.info()
    assert info.path == tmp_path / "none"
    assert (info.documents, info.document_bytes) == (0, 0)
    assert (info.last_seq, info.oldest_seq, info.segments, info.segment_bytes) == (0, 0, 0, 0)
    assert (info.checkpoint, info.is_of_this_place, info.is_recovery_due) == (None, False, False)
    assert not (tmp_path / "none").exists()


def test_info_counts_files_and_bytes(tmp_path: Path) -> None:
    """Info has the counts and sizes of documents and journal."""
    with FileStore(tmp_path / "store") as store:
        for name in ("a", "b", "c"):
            store.save(make_environment(id=name))
        store.delete("b")
        (store.path / "environments" / ".DS_Store").write_bytes(b"not counted")
        (store.path / "environments" / "link.json").symlink_to("elsewhere")
        info = store.info()
        assert info.documents == store.count() == 3
        sizes = [store.document_path(name).stat().st_size for name in ("a", "c")]
        assert info.document_bytes == sum(sizes)
        assert (info.last_seq, info.oldest_seq, info.segments) == (4, 1, 1)
        assert info.segment_bytes == 1 << 16
        assert (info.checkpoint, info.is_of_this_place) == (0, True)
        assert info.is_durable
        assert not info.is_recovery_due


def test_info_says_what_proves_that_memory_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names the rule in force here: status, inotify, or neither."""
    with FileStore(tmp_path / "store") as store:
        monkeypatch.setattr(stat_signature, "_has_change_times", lambda *_: False)
        assert "Each read opens its files" in store.info().memory
        monkeypatch.setattr(stat_signature, "_has_change_times", lambda *_: True)
        store.save_all(make_environment(id=f"{number}") for number in range(100))
        assert store.info().memory.endswith("while its bytes are the same.")
        for _ in range(2):
            store.find_all()
        watches = store._documents.is_watching
        assert store.info().memory.endswith("follow inotify.") == watches


def test_info_follows_pruning(tmp_path: Path) -> None:
    """Info says where the history begins, and which change the last checkpoint covers."""
    with FileStore(tmp_path / "store") as store:
        for number in range(30):
            store.save(make_environment(id="a", name=f"{number}", extra={"pad": "x" * 20_000}))
        several = store.info()
        assert several.segments > 2
        pruned = store.prune_history(keep_bytes=0)
        info = store.info()
        assert (info.oldest_seq, info.segments) == (pruned.oldest, 1)
        assert info.segment_bytes == several.segment_bytes - pruned.bytes_freed
        assert info.checkpoint == info.last_seq == 30


def test_info_opens_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Info opens no document."""
    with FileStore(tmp_path / "store", durable=False) as store:
        store.save(make_environment(id="a"))

        def refuse(*_: object) -> Any:
            raise AssertionError("a document was opened")

        for name in ("find", "stored", "at", "read_all"):
            monkeypatch.setattr(Documents, name, refuse)
        assert store.info().documents == 1


def test_checkpoint_of_copy_is_of_this_place(tmp_path: Path) -> None:
    """Opening a copy recovers it, so that its last checkpoint is its own."""
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment(id="a"))
        assert store.info().is_of_this_place
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    with FileStore(tmp_path / "other") as other:
        other.save(make_environment())
    with FileStore(tmp_path / "copy") as copy:
        assert copy.info().is_of_this_place, "opening it recovered it"


def test_info_reports_pending_recovery(tmp_path: Path) -> None:
    """Info reports a recovery that was not made, but not a change in progress."""
    with FileStore(tmp_path / "store", durable=False) as store:
        store.save(make_environment(id="a"))
        with lock_held(store):
            (store.path / ".waggle" / "state").write_bytes(b"")
            reader = FileStore(store.path, durable=False, lock_timeout=0)
            assert not reader.info().is_recovery_due, "the lock holder may be recovering"
        assert reader.info().is_recovery_due
        assert reader.info().last_seq == 1
        reader.save(make_environment(id="b"))
        assert not reader.info().is_recovery_due
        reader.close()


def test_closed_store_is_refused(tmp_path: Path) -> None:
    """A closed store has no info."""
    store = FileStore(tmp_path / "store")
    store.close()
    with pytest.raises(StoreClosedError):
        store.info()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
def test_info_names_file_system(tmp_path: Path) -> None:
    """Info has the type of the file system that the store is mounted on."""
    with FileStore(tmp_path / "store", durable=False) as store:
        found = store.info().file_system
    assert found
    assert found in Path("/proc/filesystems").read_text()
    assert linux.filesystem_type("/proc/self") == "proc"


MOUNTS = rb"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:5 / /data rw - xfs /dev/sdb rw
24 22 0:6 / /data\040two rw shared:2 master:3 - btrfs /dev/sdc rw
25 22 0:7 / /data rw - tmpfs tmpfs rw
26 22 0:8 / /data/deep rw - nfs4 host:/x rw
"""


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/", "ext4"),
        ("/home/x", "ext4"),
        ("/database", "ext4"),
        ("/data", "tmpfs"),
        ("/data/x", "tmpfs"),
        ("/data two/x", "btrfs"),
        ("/data/deep/x", "nfs4"),
    ],
)
def test_deepest_and_last_mount_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: str
) -> None:
    """A mount hides what it was mounted over."""
    mounts = tmp_path / "mounts"
    mounts.write_bytes(MOUNTS)
    real = builtins.open
    monkeypatch.setattr(builtins, "open", lambda _, mode: real(mounts, mode))
    assert linux.filesystem_type(path) == expected
    mounts.unlink()
    assert linux.filesystem_type(path) == ""


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32", "freebsd14"])
def test_durability_names_system_calls(platform: str) -> None:
    """One sentence says which system call makes a change durable."""
    sentence = durability(durable=True, platform=platform)
    assert sentence.endswith(".")
    call = {"darwin": "F_FULLFSYNC", "win32": "FlushFileBuffers"}.get(platform, "fdatasync")
    assert call in sentence
    assert ("syncfs" in sentence) == (platform == "linux")
    assert durability(durable=False, platform=platform).startswith("Nothing is synced")


def test_info_reports_store_without_sync(tmp_path: Path) -> None:
    """The info of a store that syncs nothing says so."""
    with FileStore(tmp_path / "store", durable=False) as store:
        info = store.info()
    assert not info.is_durable
    assert info.durability == durability(durable=False)
