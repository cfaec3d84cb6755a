# SPDX-License-Identifier: Apache-2.0
"""Snapshots are complete and consistent, and leave nothing behind when they fail."""

import errno
import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.store.locks import lock_held
from tests.store.maintenance.contents import documents
from tests.store.recorder import fail_call, record
from waggle_fsstore import (
    CorruptDocumentError,
    EventKind,
    FileStore,
    StoreClosedError,
)
from waggle_fsstore.store.maintenance.snapshot import Snapshot
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.testing import make_environment


@pytest.fixture
def store(edited_store: FileStore) -> FileStore:
    """A store with a manual edit."""
    return edited_store


def sums(directory: Path) -> dict[str, str]:
    lines = (directory / "SHA256SUMS").read_text().splitlines()
    return {path: digest for digest, path in (line.split("  ", 1) for line in lines)}


def test_snapshot_copies_documents(store: FileStore, dest: Path) -> None:
    """A snapshot has the documents byte for byte, with manual edits, the marker and checksums."""
    made = store.snapshot(dest)
    assert (made.seq, made.count, made.path) == (3, 3, dest)
    assert documents(dest) == documents(store.path)
    assert (dest / "waggle.json").read_bytes() == (store.path / "waggle.json").read_bytes()
    assert sorted(path.name for path in dest.iterdir()) == [
        "SHA256SUMS",
        "environments",
        "waggle.json",
    ]
    assert sums(dest) == {
        str(path.relative_to(dest)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in [*(dest / "environments").iterdir(), dest / "waggle.json"]
    }


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="there is no sha256sum")
def test_sha256sum_verifies_snapshot(store: FileStore, dest: Path) -> None:
    """The usual tool verifies a snapshot, and notices a changed file."""
    for name in ("Ä" * 100, "UPPER", "a/b", "per%cent", "~tilde", "new\nline", "con"):
        store.save(make_environment(id=name))
    store.snapshot(dest)
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    done = subprocess.run(check, cwd=dest, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (dest / "environments" / "a.json").write_bytes(b"{}")
    assert subprocess.run(check, cwd=dest, capture_output=True, check=False).returncode == 1


def test_snapshot_opens_as_store(store: FileStore, dest: Path) -> None:
    """A snapshot can be opened as a store with the same environments."""
    store.snapshot(dest)
    with FileStore(dest, durable=False) as copy:
        assert copy.find_all() == store.find_all()


def test_missing_store_has_empty_snapshot(tmp_path: Path, dest: Path) -> None:
    """A store without any write has an empty snapshot, and is not initialized."""
    with FileStore(tmp_path / "none") as store:
        made = store.snapshot(dest)
    assert (made.seq, made.count) == (0, 0)
    assert documents(dest) == {}
    assert list(sums(dest)) == ["waggle.json"]
    assert not (tmp_path / "none").exists()


def test_empty_directory_is_used(store: FileStore, dest: Path) -> None:
    """A snapshot may go into an existing empty directory."""
    dest.mkdir(parents=True)
    assert store.snapshot(dest).count == 3


@pytest.mark.parametrize("kind", ["full", "file", "snapshot"])
def test_existing_destination_is_refused(store: FileStore, dest: Path, kind: str) -> None:
    """A snapshot never writes into existing files."""
    if kind == "snapshot":
        store.snapshot(dest)
    elif kind == "full":
        dest.mkdir(parents=True)
        (dest / "mine").touch()
    else:
        dest.parent.mkdir()
        dest.write_bytes(b"mine")
    before = sorted(dest.parent.rglob("*"))
    with pytest.raises(FileExistsError, match="empty directory") as caught:
        store.snapshot(dest)
    assert caught.value.filename == str(dest)
    assert sorted(dest.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["", "environments", "copy", ".waggle/copy"])
def test_destination_inside_store_is_refused(store: FileStore, name: str) -> None:
    """A snapshot inside its own store would be a foreign file there."""
    with pytest.raises(ValueError, match="inside its store"):
        store.snapshot(store.path / name)
    assert not (store.path / "copy").exists()


def test_destination_beside_store_is_accepted(store: FileStore) -> None:
    """A path that only begins like that of the store is another directory."""
    assert store.snapshot(f"{store.path}-copy").count == 3


def test_snapshot_files_are_private(store: FileStore, dest: Path) -> None:
    """Only the owner has access to a snapshot, as to the store."""
    store.snapshot(dest)
    modes = {path.stat().st_mode & 0o777 for path in dest.rglob("*") if path.is_file()}
    assert (modes, dest.stat().st_mode & 0o777) == ({0o600}, 0o700)


def test_snapshot_omits_foreign_files(store: FileStore, dest: Path) -> None:
    """A foreign file among the documents is not copied."""
    (store.path / "environments" / ".DS_Store").touch()
    assert store.snapshot(dest).count == 3
    assert ".DS_Store" not in documents(dest)


def test_corrupt_document_is_reported(store: FileStore, dest: Path) -> None:
    """A corrupt document is never left out in silence: without a callback, it raises."""
    store.document_path("b").write_bytes(b"{")
    with pytest.raises(CorruptDocumentError) as caught:
        store.snapshot(dest)
    assert caught.value.path == store.document_path("b")
    assert not dest.exists()
    bad: list[Exception] = []
    made = store.snapshot(dest, on_corrupt=bad.append)
    assert made.count == 2
    assert [type(error) for error in bad] == [CorruptDocumentError]
    assert list(documents(dest)) == ["a.json", "c.json"]


def test_unreadable_document_is_reported(
    store: FileStore, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error of one file is reported like a corrupt one; a lack of resources raises."""
    real = Documents.at
    trouble = OSError(errno.EIO, "Input/output error", str(store.document_path("b")))

    def at(self: Documents, name: str) -> Any:
        if name == "b.json":
            raise trouble
        return real(self, name)

    monkeypatch.setattr(Documents, "at", at)
    bad: list[Exception] = []
    assert store.snapshot(dest, on_corrupt=bad.append).count == 2
    assert bad == [trouble]
    trouble = OSError(errno.EMFILE, "Too many open files", str(store.document_path("b")))
    with pytest.raises(OSError, match="Too many open files"):
        store.snapshot(dest.parent / "other", on_corrupt=bad.append)
    assert not (dest.parent / "other").exists()


def test_aborted_snapshot_leaves_nothing(store: FileStore, dest: Path) -> None:
    """An aborted snapshot leaves no file; an existing empty directory stays."""

    def refuse(error: Exception) -> None:
        raise KeyboardInterrupt from error

    store.document_path("b").write_bytes(b"{")
    dest.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        store.snapshot(dest, on_corrupt=refuse)
    assert list(dest.iterdir()) == []


def test_closed_store_is_refused(store: FileStore, dest: Path) -> None:
    """A closed store makes no snapshot and restores none."""
    store.snapshot(dest)
    store.close()
    with pytest.raises(StoreClosedError):
        store.snapshot(dest)
    with pytest.raises(StoreClosedError):
        store.restore(dest)
    with pytest.raises(StoreClosedError):
        store.restore_revision("a", 1)


def test_snapshot_takes_no_lock(store: FileStore, dest: Path) -> None:
    """A writer that holds the lock does not delay a snapshot."""
    with lock_held(store), FileStore(store.path, durable=False, lock_timeout=0) as reader:
        assert reader.snapshot(dest).count == 3


def test_snapshot_contains_whole_batches(tmp_path: Path) -> None:
    """While two threads change pairs of documents, each snapshot has both changes or neither."""
    start = threading.Barrier(3)
    with FileStore(tmp_path / "store", durable=False) as store:

        def write(name: str) -> None:
            start.wait()
            for number in range(100):
                pair = [make_environment(id=f"{name}{n}", name=f"{number}") for n in "12"]
                store.save_all(pair)
                if number % 7 == 0:
                    store.delete(f"{name}1")
                    store.delete(f"{name}2")

        made: list[Snapshot] = []
        with ThreadPoolExecutor() as pool:
            writers = [pool.submit(write, name) for name in ("x", "y")]
            start.wait()
            while not all(writer.done() for writer in writers):
                made.append(store.snapshot(tmp_path / f"copy-{len(made)}"))
            for writer in writers:
                writer.result()
        events = list(store.history())
        for copy in made:
            with FileStore(copy.path, durable=False) as opened:
                found = {environment.id: environment.name for environment in opened.find_all()}
            for name in ("x", "y"):
                assert found.get(f"{name}1") == found.get(f"{name}2") or (
                    # One was just deleted: the two are deleted by separate changes.
                    f"{name}1" not in found
                )
            # The snapshot is the store as of the change that it names.
            expected: dict[str, str] = {}
            for event in (event for event in events if event.seq <= copy.seq):
                expected.pop(event.environment_id, None)
                if event.environment and event.kind is not EventKind.DELETED:
                    expected[event.environment_id] = event.environment.name
            assert found == expected


def during_the_copy(
    monkeypatch: pytest.MonkeyPatch, name: str, action: Callable[[], object]
) -> None:
    """Do ``action`` once, just before the document with this file name is copied."""
    real = Documents.at
    todo = [action]

    def at(self: Documents, wanted: str) -> Any:
        if wanted == name and todo:
            todo.pop()()
        return real(self, wanted)

    monkeypatch.setattr(Documents, "at", at)


def test_concurrent_changes_are_applied(
    store: FileStore, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents that are updated, created and deleted during the copy are brought up to date."""

    def change() -> None:
        store.save(make_environment(id="a", name="second a"))  # Already copied.
        store.save(make_environment(id="z", name="new"))
        store.delete("c")

    during_the_copy(monkeypatch, "b.json", change)
    made = store.snapshot(dest)
    assert (made.seq, made.count) == (6, 3)
    assert documents(dest) == documents(store.path)
    assert list(sums(dest)) == [
        "environments/a.json",
        "environments/b.json",
        "environments/z.json",
        "waggle.json",
    ]


def test_corrupt_document_replaced_during_copy_is_good(
    store: FileStore, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document that was corrupt when it was copied, and replaced since, raises nothing."""
    store.document_path("a").write_bytes(b"{")

    def change() -> None:
        store.delete("a")
        store.save(make_environment(id="a", name="again"))

    during_the_copy(monkeypatch, "b.json", change)
    assert store.snapshot(dest).count == 3
    assert documents(dest) == documents(store.path)


def test_snapshot_without_recovery_is_current(store: FileStore, dest: Path) -> None:
    """A reader that cannot recover the store copies what recovery would publish."""
    expected = store.find_all()
    with lock_held(store):
        store.document_path("a").unlink()
        (store.path / ".waggle" / "state").write_bytes(b"")
        with FileStore(store.path, durable=False, lock_timeout=0) as reader:
            made = reader.snapshot(dest)
    assert (made.seq, made.count) == (3, 3)
    assert FileStore(dest, durable=False).find_all() == expected


def test_failed_call_leaves_no_snapshot(tmp_path: Path) -> None:
    """When any system call fails, nothing is left that looks like a snapshot."""
    with FileStore(tmp_path / "store") as store:
        store.save_all([make_environment(id=f"e{number}") for number in range(3)])
        with pytest.MonkeyPatch.context() as patch:
            calls = record(patch).calls
            store.snapshot(tmp_path / "whole")
        spoilt = [n for n, call in enumerate(calls) if call.name not in ("close", "unlink")]
        assert len(spoilt) > 20
        for number in spoilt:
            dest = tmp_path / f"copy-{number}"
            with pytest.MonkeyPatch.context() as patch:
                record(patch, fail_call(number, errno.ENOSPC))
                with pytest.raises(OSError, match="No space left"):
                    store.snapshot(dest)
            assert not dest.exists()


@pytest.mark.parametrize("count", [3, 70])
def test_documents_are_synced_before_checksums(tmp_path: Path, count: int) -> None:
    """The documents are durable before their directory is renamed; the checksums come last."""
    with FileStore(tmp_path / "store") as store:
        store.save_all([make_environment(id=f"e{number:03}") for number in range(count)])
        with pytest.MonkeyPatch.context() as patch:
            calls = record(patch)
            store.snapshot(tmp_path / "copy")
    names = [(call.name, call.files) for call in calls.calls]
    renames = [files for name, files in names if name == "replace"]
    assert renames == [("environments.part", "environments"), ("SHA256SUMS.part", "SHA256SUMS")]
    named = names.index(("replace", renames[0]))
    syncs = sum(name in ("fdatasync", "fsync") for name, _ in names[:named])
    if count < 64 or not sys.platform.startswith("linux"):
        assert syncs >= count + 2
    assert names[-1][0] == "close"
    assert "fsync" in [name for name, _ in names[named:]]
