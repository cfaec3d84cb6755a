# SPDX-License-Identifier: Apache-2.0
"""Restore brings back documents, from a snapshot or from history, as changes."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.store.maintenance.contents import documents
from waggle_fsstore import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    EventKind,
    FileStore,
    HistoryPrunedError,
    UnsupportedFormatError,
    audit,
)
from waggle_fsstore.testing import make_environment


@pytest.fixture
def store(edited_store: FileStore) -> FileStore:
    """A store with a manual edit."""
    return edited_store


def test_restore_brings_documents_back(store: FileStore, dest: Path) -> None:
    """Restore brings changed documents back, and leaves the others alone."""
    before = store.find_all()
    store.snapshot(dest)
    store.save(make_environment(id="a", name="second"))
    store.delete("b")
    store.save(make_environment(id="d"))
    untouched = store.document_path("c").read_bytes()
    last = list(store.history())[-1].seq
    done = store.restore(dest)
    assert (done.created, done.updated, done.deleted, done.unchanged) == (1, 1, 1, 1)
    assert store.find_all() == before
    assert store.document_path("c").read_bytes() == untouched
    events = list(store.history(after=last))
    assert [(event.environment_id, str(event.kind)) for event in events] == [
        ("a", "updated"),
        ("b", "created"),
        ("d", "deleted"),
    ]
    assert {event.reason for event in events} == {f"restored from {dest}"}
    assert list(store.check()) == []


def test_restore_is_idempotent(store: FileStore, dest: Path) -> None:
    """A restore of what is already there writes nothing."""
    store.snapshot(dest)
    before = documents(store.path)
    assert store.restore(dest).unchanged == 3
    assert documents(store.path) == before
    assert len(list(store.history())) == 3


def test_restore_can_be_undone(store: FileStore, dest: Path) -> None:
    """Each version that a restore replaces is in the history, and can be restored from there."""
    store.snapshot(dest)
    store.save(make_environment(id="a", name="second"))
    store.delete("b")
    store.save(make_environment(id="d"))
    before = store.find_all()
    last = list(store.history())[-1].seq
    store.restore(dest)
    versions = {event.environment_id: event for event in store.history(until=last)}
    for name in ("a", "b", "d"):
        if versions[name].kind is EventKind.DELETED:
            store.delete(name)
        else:
            store.restore_revision(name, versions[name].seq)
    assert store.find_all() == before


def test_restore_is_one_line(store: FileStore, dest: Path) -> None:
    """A restore is one line of the journal, so it is atomic across a crash."""
    store.snapshot(dest)
    for name in ("a", "b", "c"):
        store.save(make_environment(id=name))
    [journal] = (store.path / "journal").iterdir()
    before = journal.read_bytes().count(b"\n")
    assert store.restore(dest).updated == 3
    assert journal.read_bytes().count(b"\n") == before + 1


def test_restore_records_manual_edit(store: FileStore, dest: Path) -> None:
    """A manual edit that a restore replaces is in the history."""
    store.snapshot(dest)
    path = store.document_path("a")
    path.write_text(path.read_text().replace("first a", "edited since"))
    store.restore(dest)
    events = list(store.history("a"))[-2:]
    assert [event.kind for event in events] == [EventKind.EXTERNAL, EventKind.UPDATED]
    assert events[0].environment is not None
    assert events[0].environment.name == "edited since"
    assert store.find_by_id("a").name == "first a"


@pytest.mark.parametrize("is_wanted", [True, False])
def test_restore_moves_corrupt_document(store: FileStore, dest: Path, is_wanted: bool) -> None:
    """A corrupt document of the store goes to lost+found, and is replaced or deleted."""
    store.snapshot(dest)
    name = "b" if is_wanted else "d"
    store.document_path(name).write_bytes(b"{ broken")
    done = store.restore(dest)
    assert (done.updated, done.deleted) == ((1, 0) if is_wanted else (0, 1))
    assert [environment.id for environment in store.find_all()] == ["a", "b", "c"]
    [kept] = (store.path / ".waggle" / "lost+found").iterdir()
    assert kept.read_bytes() == b"{ broken"


def test_corrupt_file_of_unknown_id_stops_restore(store: FileStore, dest: Path) -> None:
    """A corrupt file of unknown id stops a restore before it changes anything."""
    store.snapshot(dest)
    store.delete("a")
    stray = store.path / "environments" / f"{'a' * 217}~{'0' * 32}.json"
    stray.write_bytes(b"{")
    with pytest.raises(CorruptDocumentError):
        store.restore(dest)
    assert not store.document_path("a").exists()


def test_restore_refuses_newer_document_in_store(store: FileStore, dest: Path) -> None:
    """A document of a newer program is neither overwritten nor deleted."""
    store.snapshot(dest)
    path = store.document_path("b")
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    store.delete("a")
    before = documents(store.path)
    with pytest.raises(UnsupportedFormatError):
        store.restore(dest)
    assert documents(store.path) == before


def test_restore_initializes_store(store: FileStore, dest: Path, tmp_path: Path) -> None:
    """A snapshot can be restored into a new store."""
    store.snapshot(dest)
    with FileStore(tmp_path / "new", durable=False) as new:
        assert new.restore(dest).created == 3
        assert new.find_all() == store.find_all()


def test_directory_without_checksums_is_restored(store: FileStore, tmp_path: Path) -> None:
    """Any directory with documents can be restored: a copy, or a git checkout."""
    source = tmp_path / "plain"
    (source / "environments").mkdir(parents=True)
    shutil.copy(store.document_path("a"), source / "environments" / "a.json")
    (source / "environments" / "notes.txt").write_text("not a document")
    done = store.restore(source)
    assert (done.deleted, done.unchanged) == (2, 1)
    assert [environment.id for environment in store.find_all()] == ["a"]


def test_handwritten_document_is_restored(store: FileStore, tmp_path: Path) -> None:
    """A document may omit every key that has a default."""
    environments = tmp_path / "plain" / "environments"
    environments.mkdir(parents=True)
    (environments / "d.json").write_text('{"id": "d", "name": "handwritten", "runtime": "node"}')
    assert store.restore(environments.parent).created == 1
    assert [environment.name for environment in store.find_all()] == ["handwritten"]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_directory_without_documents_is_refused(
    store: FileStore, tmp_path: Path, name: str
) -> None:
    """A directory without environments/ is not an empty snapshot."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no documents") as caught:
        store.restore(tmp_path / name)
    assert caught.value.filename == str(tmp_path / name)
    assert store.count() == 3


def change_a_byte(dest: Path) -> Path:
    path = dest / "environments" / "b.json"
    path.write_text(path.read_text().replace("edited", "EDITED"))
    return path


def remove_one(dest: Path) -> Path:
    (dest / "environments" / "b.json").unlink()
    return dest / "environments" / "b.json"


def add_one(dest: Path) -> Path:
    path = dest / "environments" / "d.json"
    path.write_text('{"id": "d", "name": "d", "runtime": "node"}')
    return path


def change_the_marker(dest: Path) -> Path:
    (dest / "waggle.json").write_bytes(b"{}")
    return dest / "waggle.json"


def cut_the_sums(dest: Path) -> Path:
    path = dest / "SHA256SUMS"
    path.write_bytes(path.read_bytes()[:-70])
    return path


def lead_out(dest: Path) -> Path:
    path = dest / "SHA256SUMS"
    path.write_text(f"{path.read_text()}{'0' * 64}  ../store/waggle.json\n")
    return path


def no_text(dest: Path) -> Path:
    (dest / "SHA256SUMS").write_bytes(b"\xff")
    return dest / "SHA256SUMS"


def corrupt(dest: Path) -> Path:
    (dest / "SHA256SUMS").unlink()
    (dest / "environments" / "b.json").write_bytes(b"{")
    return dest / "environments" / "b.json"


@pytest.mark.parametrize(
    "spoil",
    [
        change_a_byte,
        remove_one,
        add_one,
        change_the_marker,
        cut_the_sums,
        lead_out,
        no_text,
        corrupt,
    ],
    ids=lambda spoil: spoil.__name__,
)
def test_damaged_snapshot_is_refused(
    store: FileStore, dest: Path, spoil: Callable[[Path], Path]
) -> None:
    """Restore names the file that differs from its checksum, and changes nothing."""
    store.snapshot(dest)
    store.delete("a")
    before = documents(store.path)
    path = spoil(dest)
    with pytest.raises(CorruptDocumentError) as caught:
        store.restore(dest)
    assert caught.value.path == path
    assert documents(store.path) == before


def test_newer_snapshot_is_refused(store: FileStore, dest: Path) -> None:
    """A snapshot of a newer program is refused."""
    store.snapshot(dest)
    (dest / "SHA256SUMS").unlink()
    path = dest / "environments" / "b.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(UnsupportedFormatError):
        store.restore(dest)


def test_restore_records_actor_and_reason(store: FileStore, dest: Path) -> None:
    """A restore has the actor and the reason of its caller."""
    store.snapshot(dest)
    store.delete("a")
    with audit(actor="operator", reason="wrong button"):
        store.restore(dest)
    last = list(store.history())[-1]
    assert (last.actor, last.reason) == ("operator", "wrong button")


@pytest.mark.parametrize(
    "name", ["\udcff", "/".join(["long" * 50] * 12)], ids=["not UTF-8", "2,400 characters"]
)
def test_path_of_any_form_is_restored(store: FileStore, dest: Path, name: str) -> None:
    """A snapshot is restored from every path; the reason names as much of it as it can hold."""
    dest = dest / name
    try:
        dest.mkdir(parents=True)
    except OSError:
        pytest.skip("this file system has no such names")
    store.snapshot(dest)
    store.delete("a")
    assert store.restore(dest).created == 1
    reason = list(store.history())[-1].reason
    named = f"restored from {dest}".encode(errors="backslashreplace").decode()
    assert reason.removesuffix("...") in named
    assert len(reason) == min(len(named), 2_000)


def test_restore_inside_update_is_refused(store: FileStore, dest: Path) -> None:
    """A callback of update cannot restore into the store that waits for it."""
    store.snapshot(dest)
    with pytest.raises(RuntimeError, match="update"):
        store.update("a", lambda _: store.restore(dest))
    with pytest.raises(RuntimeError, match="update"):
        store.update("a", lambda _: store.restore_revision("a", 1))


def test_revision_becomes_new_version(store: FileStore) -> None:
    """An earlier version is stored as a new one, and the replaced one is in the history."""
    first = store.find_by_id("a")
    store.save(make_environment(id="a", name="second"))
    found = store.restore_revision("a", first.revision)
    assert found == first == store.find_by_id("a")
    assert found.revision == store.find_by_id("a").revision == 5
    last = list(store.history("a"))[-1]
    assert (last.kind, last.reason) == (EventKind.UPDATED, "restored revision 1")


def test_revision_of_deleted_environment_is_created(store: FileStore) -> None:
    """A restored version of a deleted environment counts as created."""
    first = store.find_by_id("a")
    store.delete("a")
    assert store.restore_revision("a", 1) == first
    assert list(store.history("a"))[-1].kind is EventKind.CREATED


def test_revision_replaces_corrupt_document(store: FileStore) -> None:
    """A corrupt document goes to lost+found, and the restored version replaces it."""
    first = store.find_by_id("a")
    store.document_path("a").write_bytes(b"{")
    assert store.restore_revision("a", 1) == first
    [kept] = (store.path / ".waggle" / "lost+found").iterdir()
    assert kept.read_bytes() == b"{"


def test_revision_of_manual_edit_is_restored(store: FileStore) -> None:
    """A recorded manual edit is a version like any other."""
    edited = store.find_by_id("b")
    assert [found.is_repaired for found in store.repair()] == [True]
    seq = list(store.history("b"))[-1].seq
    store.save(make_environment(id="b"))
    assert store.restore_revision("b", seq) == edited


@pytest.mark.parametrize(
    ("name", "revision"), [("a", 0), ("a", -1), ("a", 2), ("a", 99), ("missing", 1), ("", 1)]
)
def test_unknown_revision_is_not_found(store: FileStore, name: str, revision: int) -> None:
    """A version that never existed is not found, and nothing is written."""
    before = documents(store.path)
    with pytest.raises(EnvironmentNotFoundError):
        store.restore_revision(name, revision)
    assert documents(store.path) == before


def test_revision_of_deletion_is_not_found(store: FileStore) -> None:
    """The number of a deletion is no version to restore."""
    store.delete("a")
    with pytest.raises(EnvironmentNotFoundError):
        store.restore_revision("a", 4)


def test_pruned_revision_names_oldest(tmp_path: Path) -> None:
    """The error for a pruned version says where the history begins."""
    with FileStore(tmp_path / "store") as store:
        for number in range(30):
            store.save(make_environment(id="a", name=f"{number}", extra={"pad": "x" * 20_000}))
        oldest = store.prune_history(keep_bytes=0).oldest
        with pytest.raises(HistoryPrunedError) as caught:
            store.restore_revision("a", 1)
        assert caught.value.oldest == oldest
        assert store.restore_revision("a", oldest).name == str(oldest - 1)


def test_revision_in_compressed_segment_is_restored(tmp_path: Path) -> None:
    """A version is restored from a compressed segment."""
    with FileStore(tmp_path / "store") as store:
        for number in range(30):
            store.save(make_environment(id="a", name=f"{number}", extra={"pad": "x" * 20_000}))
        assert store.prune_history(compress=True).segments_compressed > 0
        assert store.restore_revision("a", 1).name == "0"


def test_symbolic_link_in_snapshot_is_refused(store: FileStore, dest: Path) -> None:
    """A symbolic link among the documents of a snapshot is refused."""
    store.snapshot(dest)
    (dest / "SHA256SUMS").unlink()
    path = dest / "environments" / "b.json"
    path.unlink()
    os.symlink(store.document_path("a"), path)
    with pytest.raises(CorruptDocumentError, match="symbolic link"):
        store.restore(dest)
