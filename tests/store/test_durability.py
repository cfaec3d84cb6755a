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
from tests.store.recorder import Call, record
from waggle_fsstore import EnvironmentNotFoundError, FileStore
from waggle_fsstore.store.fs import disk
from waggle_fsstore.testing import make_environment


@pytest.fixture
def store(durable_store: FileStore) -> FileStore:
    """A durable store with one document, "other"."""
    durable_store.save(make_environment(id="other"))
    return durable_store


def test_save_flushes_once_between_staging_and_publishing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new file is staged, the line is durable before the file gets its name, and no more."""
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


def test_save_over_an_old_version_does_the_same(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replacing is no shortcut: no document is ever written in place."""
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


def test_save_all_flushes_once(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a batch is one line and one flush."""
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


def test_delete_flushes_once(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line is durable before the document goes."""
    recorder = record(monkeypatch)
    store.delete("other")
    assert recorder.names()[1:] == [
        f"pwrite {FIRST_SEGMENT}",
        f"fdatasync {FIRST_SEGMENT}",
        "pwrite state",
        "unlink other.json",
        "pwrite state",
    ]


def test_setting_aside_flushes_lost_and_found(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal does not keep a corrupt document, so the folder that gets it is flushed."""
    store.document_path("other").write_text("{")
    recorder = record(monkeypatch)
    store.delete("other")
    assert recorder.names()[-3:] == [
        "replace other.json other.2.json",
        "fsync lost+found",
        "pwrite state",
    ]


def test_a_switch_makes_the_new_segment_durable_before_it_counts(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old segment is cut off first; the new one is written aside, flushed and renamed in."""
    large = make_environment(id="a", extra={"padding": "x" * 40_000})
    store.save(large)
    recorder = record(monkeypatch)
    store.save(large)
    assert recorder.names()[1:11] == [
        "pwrite TEMP",
        f"ftruncate {FIRST_SEGMENT}",
        "mkdir journal",
        "pwrite TEMP",
        "fdatasync TEMP",
        "replace TEMP 0000000000000003.jsonl",
        "fsync journal",
        "pwrite 0000000000000003.jsonl",
        "fdatasync 0000000000000003.jsonl",
        "pwrite state",
    ]


def test_a_checkpoint_comes_after_the_documents_are_durable(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing flushes what was changed and its folder, and only then says so."""
    store.save(make_environment(id="a"))
    recorder = record(monkeypatch)
    store.close()
    calls = recorder.names()
    said = calls.index(f"pwrite {FIRST_SEGMENT}")
    assert {"fdatasync a.json", "fdatasync other.json", "fsync environments"} <= set(calls[:said])
    assert calls[said + 1 :] == [f"fdatasync {FIRST_SEGMENT}", "pwrite state"]


def test_a_checkpoint_of_many_flushes_the_file_system(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than 64 documents are flushed by one call for all."""
    store.save_all([make_environment(id=f"a{n}") for n in range(64)])
    flushed: list[int] = []
    monkeypatch.setattr(disk, "_syncfs", flushed.append)
    monkeypatch.setattr(disk, "can_syncfs", lambda _: True)
    recorder = record(monkeypatch)
    store.close()
    assert len(flushed) == 1
    calls = [name for name in recorder.names() if name.startswith("f")]
    assert calls == [f"fdatasync {FIRST_SEGMENT}"]


def test_where_a_file_system_cannot_be_flushed_each_file_is(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system whose syncfs is not known to be one, many files are flushed one by one."""
    store.save_all([make_environment(id=f"a{n}") for n in range(70)])
    monkeypatch.setattr(disk, "can_syncfs", lambda _: False)
    recorder = record(monkeypatch)
    store.close()
    assert {f"fdatasync a{n}.json" for n in range(70)} <= set(recorder.names())


@pytest.mark.parametrize("finisher", ["the same", "another handle"])
def test_after_a_failed_flush_documents_are_written_anew(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, finisher: str
) -> None:
    """No checkpoint trusts a file whose flush has failed, whichever process makes it."""
    store.save(make_environment(id="a"))
    before = store.document_path("a").stat().st_ino
    broken = [True]

    def spoil(_: int, call: Call, perform: Callable[[], Any]) -> Any:
        if call.name == "fdatasync" and broken[0] and call.files[0] in ("a.json", "TEMP"):
            raise OSError(errno.EIO, "Input/output error")
        return perform()

    recorder = record(monkeypatch, spoil)
    with pytest.raises(OSError, match="Input/output error"):
        store._writer.checkpoint()
    assert store.document_path("a").stat().st_ino == before
    broken[0] = False
    del recorder.calls[:]
    finishing = store if finisher == "the same" else FileStore(store.path)
    finishing.save(make_environment(id="b"))
    finishing.close()
    calls = recorder.names()
    anew = calls.index("replace TEMP a.json")
    assert calls[anew - 1] == "fdatasync TEMP"
    assert store.document_path("a").stat().st_ino != before


def test_closing_without_a_change_flushes_nothing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that closes, or a writer that had nothing to write, pays no checkpoint."""
    store.close()
    again = FileStore(store.path)
    again.find_all()
    with pytest.raises(EnvironmentNotFoundError):
        again.delete("missing")
    recorder = record(monkeypatch)
    again.close()
    assert recorder.names() == []


def test_founding_flushes_every_folder_and_the_marker_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new store is durable up to the folder that existed, before anything says it is a store."""
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
