# SPDX-License-Identifier: Apache-2.0
"""Fsck of the documents."""

import os
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.store.journals import PAD
from tests.store.maintenance.contents import contents
from tests.store.maintenance.fsck.damage_store import zero
from waggle_fsstore import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    EventKind,
    FileStore,
    Severity,
    audit,
)
from waggle_fsstore.store.fs import safe_read
from waggle_fsstore.store.read import documents
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and links")


def cut(store: FileStore) -> None:
    path = store.document_path("b")
    path.write_bytes(path.read_bytes()[:100])


def empty(store: FileStore) -> None:
    store.document_path("b").write_bytes(b"")


def misplace(store: FileStore) -> None:
    shutil.copy(store.document_path("a"), store.document_path("b"))


def link(store: FileStore) -> None:
    store.document_path("b").unlink()
    store.document_path("b").symlink_to(store.document_path("a"))


def directory(store: FileStore) -> None:
    store.document_path("b").unlink()
    store.document_path("b").mkdir(mode=0o700)
    (store.document_path("b") / "precious").touch()


def pipe(store: FileStore) -> None:
    store.document_path("b").unlink()
    os.mkfifo(store.document_path("b"), 0o600)


def huge(store: FileStore) -> None:
    store.document_path("b").write_bytes(b" " * (1 << 20) + b"{}")


#: Ways to corrupt a document, and the problem that check reports.
CORRUPT: dict[Callable[[FileStore], None], str] = {
    zero: "not valid JSON",
    cut: "not valid JSON",
    empty: "not valid JSON",
    misplace: "is a copy of a.json, the document of 'a'",
    link: "is a symbolic link, not a regular file",
    directory: "is a directory, not a regular file",
    pipe: "is a named pipe, not a regular file",
    huge: "is larger than",
}


@pytest.mark.parametrize("spoil", CORRUPT, ids=lambda spoil: spoil.__name__)
def test_corrupt_document_is_kept_and_restored(
    store: FileStore, spoil: Callable[[FileStore], None]
) -> None:
    """A corrupt document is an error; repair keeps the file, and restores the last version."""
    before = store.find_all()
    spoil(store)
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.ERROR, store.document_path("b"))
    assert CORRUPT[spoil] in found.problem
    assert "restores revision 4" in found.remedy
    assert not found.is_repaired
    damaged = os.lstat(store.document_path("b")).st_ino

    [repaired] = store.repair()
    assert repaired.is_repaired
    assert (repaired.path, repaired.problem) == (found.path, found.problem)
    assert "restored revision 4" in repaired.remedy
    assert store.find_all() == before
    [kept] = (store.path / ".waggle" / "lost+found").iterdir()
    assert kept.name.startswith("b.")
    assert os.lstat(kept).st_ino == damaged
    assert list(store.repair()) == list(store.check()) == []
    last = list(store.history("b"))[-1]
    assert (last.kind, last.previous_status) == (EventKind.UPDATED, None)
    assert last.reason == "fsck: restored revision 4: its file was corrupt"
    assert last.environment == before[1]
    assert store.find_by_id("b").revision == last.seq > 4


def test_corrupt_document_without_history_is_moved(store: FileStore) -> None:
    """A corrupt file that is unknown to the journal goes to lost+found; history says so."""
    store.document_path("d").write_bytes(b"{")
    os.chmod(store.document_path("d"), 0o600)
    [found] = store.repair()
    assert found.is_repaired
    [kept] = (store.path / ".waggle" / "lost+found").iterdir()
    assert kept.read_bytes() == b"{"
    assert not store.document_path("d").exists()
    [event] = store.history("d")
    assert (event.kind, event.environment) == (EventKind.DELETED, None)
    assert event.reason == "fsck: moved its corrupt file to lost+found"
    assert list(store.check()) == []


def test_corrupt_file_brings_no_deleted_document_back(store: FileStore) -> None:
    """A deleted document stays deleted though a corrupt file took its place."""
    store.delete("b")
    store.document_path("b").write_bytes(b"{")
    os.chmod(store.document_path("b"), 0o600)
    [found] = store.repair()
    assert found.is_repaired
    with pytest.raises(EnvironmentNotFoundError):
        store.find_by_id("b")
    assert list(store.check()) == []


def test_corrupt_file_of_unknown_id_is_moved(store: FileStore) -> None:
    """A corrupt file whose name holds only the hash of an unknown id goes to lost+found."""
    stem = "a" * 217 + "~" + "0" * 32
    path = store.path / "environments" / f"{stem}.json"
    path.write_bytes(b"{")
    os.chmod(path, 0o600)
    assert store.count() == 4
    [found] = store.repair()
    assert found.is_repaired
    [kept] = (store.path / ".waggle" / "lost+found").iterdir()
    assert str(kept) in found.remedy
    assert kept.read_bytes() == b"{"
    assert store.count() == 3
    assert list(store.repair()) == []


def test_document_with_hashed_name_is_restored(store: FileStore) -> None:
    """An id whose file name is only a hash of it is restored, too."""
    name = "Ä" * 100
    environment = make_environment(id=name)
    store.save(environment)
    store.document_path(name).write_bytes(b"{")
    assert [found.is_repaired for found in store.repair()] == [True]
    assert store.find_by_id(name) == environment


def test_equal_corrupt_files_are_kept_once(store: FileStore) -> None:
    """The same damage, repaired repeatedly, does not fill the disk."""
    for _ in range(3):
        store.document_path("b").write_bytes(b"{ broken")
        assert [found.is_repaired for found in store.repair()] == [True]
    store.document_path("b").write_bytes(b"{ broken in another way")
    assert [found.is_repaired for found in store.repair()] == [True]
    kept = (store.path / ".waggle" / "lost+found").iterdir()
    assert sorted(path.read_bytes() for path in kept) == [b"{ broken", b"{ broken in another way"]


def test_missing_document_is_restored(store: FileStore) -> None:
    """A document that only the journal still has is an error, and is restored."""
    environment = store.find_by_id("b")
    store.document_path("b").unlink()
    [found] = store.check()
    assert found.severity is Severity.ERROR
    assert found.problem == "is missing, but the journal has revision 4 of it"
    assert store.count() == 2
    [repaired] = store.repair()
    assert repaired.is_repaired
    assert store.find_by_id("b") == environment
    last = list(store.history("b"))[-1]
    assert last.kind is EventKind.CREATED
    assert last.reason == "fsck: restored revision 4: its file was missing"
    assert list(store.repair()) == []


def test_missing_manual_edit_is_restored(store: FileStore) -> None:
    """A manual edit that the store has recorded is restored as well."""
    path = store.document_path("b")
    path.write_text(path.read_text().replace("second b", "edited"))
    assert len(list(store.repair())) == 1
    path.unlink()
    assert [found.severity for found in store.repair()] == [Severity.ERROR]
    assert store.find_by_id("b").name == "edited"


def test_deleted_document_is_no_finding(store: FileStore) -> None:
    """A deleted document has no file, and that is no finding."""
    store.delete("b")
    assert list(store.check()) == []


def edit(store: FileStore) -> None:
    path = store.document_path("b")
    path.write_text(path.read_text().replace("second b", "edited"))


def make(store: FileStore) -> None:
    text = '{"id": "d", "name": "d", "runtime": "node", "created_at": "2026-01-02T03:04:05Z"}'
    store.document_path("d").write_text(text)
    os.chmod(store.document_path("d"), 0o600)


def roll_back(store: FileStore) -> None:
    old = store.document_path("b").read_bytes()
    store.save(make_environment(id="b", name="third b"))
    store.document_path("b").write_bytes(old)


def bring_back(store: FileStore) -> None:
    old = store.document_path("b").read_bytes()
    store.delete("b")
    store.document_path("b").write_bytes(old)
    os.chmod(store.document_path("b"), 0o600)


def take_from_another(store: FileStore, revision: int) -> None:
    """Replace a document by one that another store wrote, at some revision."""
    with FileStore(store.path.parent / "other", durable=False) as other:
        for number in range(revision):
            other.save(make_environment(id="b" if number == revision - 1 else "x"))
        shutil.copy(other.document_path("b"), store.document_path("b"))


def exchange(store: FileStore) -> None:
    take_from_another(store, 4)


def exchange_for_newer(store: FileStore) -> None:
    take_from_another(store, 9)


#: Manual edits, and the problem that check reports.
MANUAL_EDITS: dict[Callable[[FileStore], None], str] = {
    edit: "was edited manually",
    make: "was added manually",
    roll_back: "has revision 4, but the last one stored is 5",
    bring_back: "exists, but change 5 deleted it",
    exchange: "is not the version that was stored",
    exchange_for_newer: "has revision 9, but the last one stored is 4",
}


@pytest.mark.parametrize("spoil", MANUAL_EDITS, ids=lambda spoil: spoil.__name__)
def test_manual_edit_is_recorded(store: FileStore, spoil: Callable[[FileStore], None]) -> None:
    """A manual edit is a warning; repair records it, and never replaces it."""
    spoil(store)
    before = store.find_all()
    [found] = store.check()
    assert (found.severity, found.problem) == (Severity.WARNING, MANUAL_EDITS[spoil])
    assert store.find_all() == before
    [repaired] = store.repair()
    assert (repaired.severity, repaired.is_repaired) == (Severity.WARNING, True)
    assert store.find_all() == before
    assert list(store.repair()) == list(store.check()) == []
    last = list(store.history())[-1]
    assert last.kind is EventKind.EXTERNAL
    assert last.environment in before
    assert last.reason == f"fsck: {MANUAL_EDITS[spoil]}"
    assert store.find_by_id(last.environment_id).revision == last.seq


def test_white_space_is_no_edit(store: FileStore) -> None:
    """A document that was only reformatted is the version that was stored."""
    path = store.document_path("b")
    path.write_text(path.read_text().replace("\n", "\n\n"))
    assert list(store.check()) == []


def test_documents_unknown_to_journal_are_recorded(store: FileStore) -> None:
    """Documents older than their journal are unknown to it until repair records them."""
    store.close()
    shutil.rmtree(store.path / "journal")
    shutil.rmtree(store.path / ".waggle")
    with FileStore(store.path, durable=False) as again:
        before = again.find_all()
        found = [finding for finding in again.check() if finding.path.name != "state"]
        assert {finding.problem for finding in found} == {"is unknown to the journal"}
        assert [finding.path.name for finding in found] == ["a.json", "b.json", "c.json"]
        repaired = list(again.repair())
        assert all(finding.is_repaired for finding in repaired)
        assert [event.kind for event in again.history()] == [EventKind.EXTERNAL] * 3
        assert again.find_all() == before
        assert list(again.repair()) == []


def test_document_of_newer_schema_is_left_alone(store: FileStore) -> None:
    """A document of a newer program is an error that only a newer program can repair."""
    path = store.document_path("b")
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    before = contents(store.path)
    for _ in range(2):
        [found] = store.repair()
        assert (found.severity, found.is_repaired) == (Severity.ERROR, False)
        assert "upgrade" in found.remedy
    assert contents(store.path) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_document_without_permission_is_left_alone(store: FileStore) -> None:
    """A file without read permission is reported as unreadable, and stays."""
    store.document_path("b").chmod(0)
    for _ in range(2):
        [found] = store.repair()
        assert (found.severity, found.is_repaired) == (Severity.ERROR, False)
        assert "cannot be read" in found.problem
    store.document_path("b").chmod(0o600)
    assert list(store.check()) == []


def test_document_with_io_error_is_left_alone(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An I/O error of one file is reported as unreadable, and the file stays."""
    real = safe_read.read_with_status

    def read(path: str, limit: int) -> Any:
        if path.endswith("b.json"):
            raise OSError(5, "Input/output error", path)
        return real(path, limit)

    monkeypatch.setattr(documents, "read_with_status", read)
    [found] = store.repair()
    assert (found.severity, found.is_repaired) == (Severity.ERROR, False)
    assert found.problem == "cannot be read: Input/output error"


def test_oversized_manual_edit_is_left_alone(store: FileStore) -> None:
    """A manual edit that would be too large in canonical form stays as it is."""
    numbers = ",".join(["1"] * 200_000)
    store.document_path("d").write_text(
        f'{{"id": "d", "name": "d", "runtime": "node", "more": [{numbers}]}}'
    )
    os.chmod(store.document_path("d"), 0o600)
    before = contents(store.path)
    [found] = store.repair()
    assert not found.is_repaired
    assert "cannot be repaired" in found.remedy
    assert contents(store.path) == before


def test_repair_records_actor_and_reason(store: FileStore) -> None:
    """The history names the actor of a repair, and the reason that the actor gave."""
    store.document_path("b").unlink()
    with audit(actor="operator", reason="after the flood"):
        assert len(list(store.repair())) == 1
    last = list(store.history("b"))[-1]
    assert (last.actor, last.reason) == ("operator", "after the flood")


def test_repair_is_lazy(store: FileStore) -> None:
    """Repair continues as its findings are taken, and other processes can write in between."""
    store.document_path("a").unlink()
    store.document_path("b").unlink()
    findings = store.repair()
    assert next(findings).path == store.document_path("a")
    assert not store.document_path("b").exists()
    with FileStore(store.path, durable=False, lock_timeout=0) as other:
        other.save(make_environment(id="b", name="mine"))
        assert list(findings) == []
        assert other.find_by_id("b").name == "mine"


def test_repair_keeps_concurrent_delete(store: FileStore) -> None:
    """Repair examines a document again under the lock, and restores none that was just deleted."""
    store.document_path("a").write_bytes(b"{")
    store.document_path("b").write_bytes(b"{")
    repairs = store.repair()
    assert next(repairs).path == store.document_path("a")
    store.delete("b")
    assert list(repairs) == []
    with pytest.raises(EnvironmentNotFoundError):
        store.find_by_id("b")


def test_concurrent_changes_are_no_findings(store: FileStore) -> None:
    """Documents that others store, replace and delete during a check are no findings."""
    zero(store)
    findings = store.check()
    store.document_path("a").write_bytes(b"{")
    assert next(findings).path == store.document_path("a")
    store.delete("b")
    store.save(make_environment(id="b", name="third"))
    store.delete("c")
    store.save(make_environment(id="d"))
    assert list(findings) == []


def test_check_among_writers_finds_nothing(store: FileStore) -> None:
    """A check finds nothing wrong while two threads write."""
    start = threading.Barrier(3)

    def write(name: str) -> None:
        start.wait()
        for number in range(60):
            store.save(make_environment(id=name, name=f"{number}", extra=PAD))
            store.save_all([make_environment(id=f"{name}-{n}") for n in range(3)])
            store.delete(f"{name}-{number % 3}")

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, name) for name in ("x", "y")]
        start.wait()
        found = []
        while not all(writer.done() for writer in writers):
            found += list(store.check())
        for writer in writers:
            writer.result()
    assert found == list(store.check()) == []


def test_delete_keeps_equal_corrupt_files_once(store: FileStore) -> None:
    """A corrupt document that is deleted repeatedly is kept once."""
    for _ in range(3):
        store.document_path("b").write_bytes(b"{")
        with pytest.raises(CorruptDocumentError):
            store.find_by_id("b")
        store.delete("b")
    assert len(list((store.path / ".waggle" / "lost+found").iterdir())) == 1
