# SPDX-License-Identifier: Apache-2.0
"""The order in which a change reaches the disk."""

import os
import tempfile
from pathlib import Path

import pytest

from tests.store.recorder import record
from waggle_fsstore import FileStore
from waggle_fsstore.testing import make_environment


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path / "store")
    store.save(make_environment(id="other"))
    return store


def test_save_flushes_before_and_after_the_rename(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file is flushed before it gets its name, and the folder before save returns."""
    recorder = record(monkeypatch)
    store.save(make_environment(id="a"))
    assert recorder.names() == [
        "pwrite lock",
        "pwrite TEMP",
        "fdatasync TEMP",
        "pwrite state",
        "replace TEMP a.json",
        "fsync environments",
        "pwrite state",
    ]


def test_save_over_an_old_version_does_the_same(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replacing is no shortcut: no document is ever written in place."""
    recorder = record(monkeypatch)
    store.save(make_environment(id="other"))
    assert recorder.names()[1:] == [
        "pwrite TEMP",
        "fdatasync TEMP",
        "pwrite state",
        "replace TEMP other.json",
        "fsync environments",
        "pwrite state",
    ]


def test_save_all_flushes_every_file_and_the_folder_once(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All new files are flushed before the first gets its name."""
    recorder = record(monkeypatch)
    store.save_all([make_environment(id="a"), make_environment(id="b")])
    assert recorder.names()[1:] == [
        *["pwrite TEMP", "fdatasync TEMP"] * 2,
        "pwrite state",
        "replace TEMP a.json",
        "replace TEMP b.json",
        "fsync environments",
        "pwrite state",
    ]


def test_delete_flushes_the_number_first(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The revision of a deleted document cannot come back: the record is durable before it goes."""
    recorder = record(monkeypatch)
    store.delete("other")
    assert recorder.names()[1:] == [
        "pwrite state",
        "fdatasync state",
        "replace other.json TEMP",
        "fsync environments",
        "pwrite state",
        "unlink TEMP",
    ]


def test_setting_aside_flushes_both_folders(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A corrupt document is neither lost from the one folder nor missing from the other."""
    store.document_path("other").write_text("{")
    recorder = record(monkeypatch)
    store.delete("other")
    assert recorder.names()[-4:] == [
        "replace other.json other.2.json",
        "fsync environments",
        "fsync lost+found",
        "pwrite state",
    ]


def test_founding_flushes_every_folder_and_the_marker_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new store is durable up to the folder that existed, before anything says it is a store."""
    recorder = record(monkeypatch)
    FileStore(tmp_path / "new" / "store").save(make_environment(id="a"))
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


def test_folders_left_unflushed_are_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders that a start made and died before flushing are flushed by the next one."""
    (tmp_path / "new" / "store" / ".waggle").mkdir(parents=True)
    recorder = record(monkeypatch)
    FileStore(tmp_path / "new" / "store").save(make_environment(id="a"))
    calls = recorder.names()
    before = calls[: calls.index("replace TEMP waggle.json")]
    assert {"fsync store", "fsync new", f"fsync {tmp_path.name}"} <= set(before)


def test_without_durability_nothing_is_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``durable=False`` flushes nothing, and still never writes in place."""
    recorder = record(monkeypatch)
    store = FileStore(tmp_path / "store", durable=False)
    store.save(make_environment(id="a"))
    store.delete("a")
    assert not {"fsync", "fdatasync"} & {call.name for call in recorder.calls}
    assert "replace TEMP a.json" in recorder.names()


def test_other_file_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No folder above the mount point of the store's file system is flushed."""
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
