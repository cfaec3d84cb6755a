# SPDX-License-Identifier: Apache-2.0
"""info tells how large a store is, how far it has come, and what keeps it safe."""

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
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.testing import make_environment


def test_no_store(tmp_path: Path) -> None:
    """Of a store that is not there yet there is little to tell; it is not founded."""
    with FileStore(tmp_path / "none") as store:
        info = store.info()
    assert info.path == tmp_path / "none"
    assert (info.documents, info.document_bytes) == (0, 0)
    assert (info.last_seq, info.oldest_seq, info.segments, info.segment_bytes) == (0, 0, 0, 0)
    assert (info.checkpoint, info.is_of_this_place, info.is_recovery_due) == (None, False, False)
    assert not (tmp_path / "none").exists()


def test_counts_and_sizes(tmp_path: Path) -> None:
    """Documents, the journal and its numbers."""
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


def test_after_pruning(tmp_path: Path) -> None:
    """Where the history begins, and which change the last checkpoint covers."""
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


def test_opens_no_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many documents there are, none is read."""
    with FileStore(tmp_path / "store", durable=False) as store:
        store.save(make_environment(id="a"))

        def refuse(*_: object) -> Any:
            raise AssertionError("a document was opened")

        for name in ("find", "stored", "at", "read_all"):
            monkeypatch.setattr(Documents, name, refuse)
        assert store.info().documents == 1


def test_a_copy(tmp_path: Path) -> None:
    """A copy that could not be recovered yet has the checkpoint of another place."""
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment(id="a"))
        assert store.info().is_of_this_place
    shutil.copytree(tmp_path / "store", tmp_path / "copy")
    with FileStore(tmp_path / "other") as other:
        other.save(make_environment())
    with FileStore(tmp_path / "copy") as copy:
        assert copy.info().is_of_this_place, "opening it recovered it"


def test_recovery_is_due(tmp_path: Path) -> None:
    """Where recovery is due and was not made, that is told; a change under way is no matter."""
    with FileStore(tmp_path / "store", durable=False) as store:
        store.save(make_environment(id="a"))
        with lock_held(store):
            (store.path / ".waggle" / "state").write_bytes(b"")
            reader = FileStore(store.path, durable=False, lock_timeout=0)
            assert not reader.info().is_recovery_due, "who holds the lock may be at it"
        assert reader.info().is_recovery_due
        assert reader.info().last_seq == 1
        reader.save(make_environment(id="b"))
        assert not reader.info().is_recovery_due
        reader.close()


def test_a_closed_store(tmp_path: Path) -> None:
    """A closed store tells nothing."""
    store = FileStore(tmp_path / "store")
    store.close()
    with pytest.raises(StoreClosedError):
        store.info()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
def test_the_file_system(tmp_path: Path) -> None:
    """Its type is what the system says of the mount that the store is on."""
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
def test_the_deepest_and_last_mount_counts(
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
def test_durability_in_words(platform: str) -> None:
    """Which flush keeps a change, in one sentence."""
    told = durability(durable=True, platform=platform)
    assert told.endswith(".")
    call = {"darwin": "F_FULLFSYNC", "win32": "FlushFileBuffers"}.get(platform, "fdatasync")
    assert call in told
    assert ("syncfs" in told) == (platform == "linux")
    assert durability(durable=False, platform=platform).startswith("Nothing is flushed")


def test_durable_or_not(tmp_path: Path) -> None:
    """A store that was opened without flushes says so."""
    with FileStore(tmp_path / "store", durable=False) as store:
        info = store.info()
    assert not info.is_durable
    assert info.durability == durability(durable=False)
