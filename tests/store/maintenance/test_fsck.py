# SPDX-License-Identifier: Apache-2.0
"""check finds what is wrong and changes nothing; repair mends it and loses nothing."""

import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.store.journals import PAD, fill_segments, segment_paths
from tests.store.locks import lock_held
from waggle_fsstore import (
    CorruptDocumentError,
    Environment,
    EnvironmentNotFoundError,
    EventKind,
    FileStore,
    Finding,
    JournalDamagedError,
    Runtime,
    Severity,
    StoreClosedError,
    audit,
)
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs import disk, safe_read
from waggle_fsstore.store.journal import damage, lines, segments
from waggle_fsstore.store.read import documents
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="modes and links")


@pytest.fixture
def store(store: FileStore) -> FileStore:
    """A store with a, b and c, of which b is at its second version."""
    for name in ("a", "b", "c"):
        store.save(make_environment(id=name, name=f"first {name}"))
    store.save(make_environment(id="b", name="second b"))
    return store


def summary(findings: Iterator[Finding], root: Path) -> list[tuple[str, str, str]]:
    """Of each finding its severity, its path below the root, and the problem."""
    return [
        (str(found.severity), str(found.path.relative_to(root)), found.problem)
        for found in findings
    ]


def contents(root: Path) -> dict[str, bytes]:
    """All files of a store that hold something worth keeping, and what they hold."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.is_symlink())
    passing = {".waggle/lock", ".waggle/state"}
    found = {str(path.relative_to(root)): path for path in files}
    return {name: path.read_bytes() for name, path in found.items() if name not in passing}


def plant(path: Path, offset: int, data: bytes) -> None:
    """Overwrite some bytes in place."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def forget_state(store: FileStore) -> None:
    """Have the next opener distrust the state, as after a power cut."""
    (store.path / ".waggle" / "state").write_bytes(b"")


def changes_line(data: bytes, number: int) -> lines.Line:
    """One of the lines of a segment that hold changes."""
    return [line for line in lines.scan(data)[0] if line.changes][number]


def test_nothing_to_find(store: FileStore) -> None:
    """A store that only this program wrote has no findings, and nothing to repair."""
    before = contents(store.path)
    assert list(store.check()) == []
    assert list(store.repair()) == []
    assert contents(store.path) == before


def test_no_store(tmp_path: Path) -> None:
    """Where there is no store there are no findings, and none is founded."""
    with FileStore(tmp_path / "none") as store:
        assert list(store.check()) == []
        assert list(store.repair()) == []
    assert not (tmp_path / "none").exists()


def test_closed(store: FileStore) -> None:
    """A closed store is neither checked nor repaired."""
    store.close()
    with pytest.raises(StoreClosedError):
        store.check()
    with pytest.raises(StoreClosedError):
        store.repair()


def test_inside_of_update(store: FileStore) -> None:
    """A callback of update may not repair the store that waits for it."""
    with pytest.raises(RuntimeError, match="update"):
        store.update("a", lambda _: list(store.repair()))


# Documents. Each fault with what check says of it, and what repair makes of the document.


def zero(store: FileStore) -> None:
    store.document_path("b").write_bytes(bytes(500))


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


def folder(store: FileStore) -> None:
    store.document_path("b").unlink()
    store.document_path("b").mkdir(mode=0o700)
    (store.document_path("b") / "precious").touch()


def pipe(store: FileStore) -> None:
    store.document_path("b").unlink()
    os.mkfifo(store.document_path("b"), 0o600)


def huge(store: FileStore) -> None:
    store.document_path("b").write_bytes(b" " * (1 << 20) + b"{}")


CORRUPT: dict[Callable[[FileStore], None], str] = {
    zero: "not valid JSON",
    cut: "not valid JSON",
    empty: "not valid JSON",
    misplace: "id: is 'a', whose file is a.json",
    link: "is a symbolic link, not a regular file",
    folder: "is a directory, not a regular file",
    pipe: "is a named pipe, not a regular file",
    huge: "is larger than",
}


@pytest.mark.parametrize("spoil", CORRUPT, ids=lambda spoil: spoil.__name__)
def test_a_corrupt_document(store: FileStore, spoil: Callable[[FileStore], None]) -> None:
    """A corrupt document is an error; repair keeps it, and brings its last version back."""
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


def test_a_corrupt_document_without_history(store: FileStore) -> None:
    """What the journal knows nothing of goes to lost+found, and that is in the history."""
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


def test_a_corrupt_document_that_was_deleted(store: FileStore) -> None:
    """What was deleted does not come back because a corrupt file took its place."""
    store.delete("b")
    store.document_path("b").write_bytes(b"{")
    os.chmod(store.document_path("b"), 0o600)
    [found] = store.repair()
    assert found.is_repaired
    with pytest.raises(EnvironmentNotFoundError):
        store.find_by_id("b")
    assert list(store.check()) == []


def test_a_corrupt_document_of_nobody(store: FileStore) -> None:
    """A corrupt file of which only the hash of an id is known goes to lost+found."""
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


def test_a_hashed_name(store: FileStore) -> None:
    """An id whose file name is only a hash of it is brought back, too."""
    name = "Ä" * 100
    environment = make_environment(id=name)
    store.save(environment)
    store.document_path(name).write_bytes(b"{")
    assert [found.is_repaired for found in store.repair()] == [True]
    assert store.find_by_id(name) == environment


def test_the_same_evidence_is_kept_once(store: FileStore) -> None:
    """Damage that comes again and again does not fill the disk."""
    for _ in range(3):
        store.document_path("b").write_bytes(b"{ broken")
        assert [found.is_repaired for found in store.repair()] == [True]
    store.document_path("b").write_bytes(b"{ broken in another way")
    assert [found.is_repaired for found in store.repair()] == [True]
    kept = (store.path / ".waggle" / "lost+found").iterdir()
    assert sorted(path.read_bytes() for path in kept) == [b"{ broken", b"{ broken in another way"]


def test_a_missing_document(store: FileStore) -> None:
    """A document that only the journal still has is an error, and comes back."""
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


def test_a_missing_document_whose_last_word_is_external(store: FileStore) -> None:
    """A version that a hand made, and the store noted, comes back as well."""
    path = store.document_path("b")
    path.write_text(path.read_text().replace("second b", "by hand"))
    assert len(list(store.repair())) == 1
    path.unlink()
    assert [found.severity for found in store.repair()] == [Severity.ERROR]
    assert store.find_by_id("b").name == "by hand"


def test_a_deleted_document_is_not_missed(store: FileStore) -> None:
    """What was deleted is not there, and nothing is wrong with that."""
    store.delete("b")
    assert list(store.check()) == []


def edit(store: FileStore) -> None:
    path = store.document_path("b")
    path.write_text(path.read_text().replace("second b", "by hand"))


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
    """Put a document there that another store wrote, at some revision."""
    with FileStore(store.path.parent / "other", durable=False) as other:
        for number in range(revision):
            other.save(make_environment(id="b" if number == revision - 1 else "x"))
        shutil.copy(other.document_path("b"), store.document_path("b"))


def exchange(store: FileStore) -> None:
    take_from_another(store, 4)


def exchange_for_newer(store: FileStore) -> None:
    take_from_another(store, 9)


BY_HAND: dict[Callable[[FileStore], None], str] = {
    edit: "was changed by hand",
    make: "was made by hand",
    roll_back: "has revision 4, but the last one stored is 5",
    bring_back: "is there, but change 5 deleted it",
    exchange: "is not the version that was stored",
    exchange_for_newer: "has revision 9, but the last one stored is 4",
}


@pytest.mark.parametrize("spoil", BY_HAND, ids=lambda spoil: spoil.__name__)
def test_a_document_changed_by_hand(store: FileStore, spoil: Callable[[FileStore], None]) -> None:
    """What a hand did is a warning; repair records it, and never replaces it."""
    spoil(store)
    before = store.find_all()
    [found] = store.check()
    assert (found.severity, found.problem) == (Severity.WARNING, BY_HAND[spoil])
    assert store.find_all() == before
    [repaired] = store.repair()
    assert (repaired.severity, repaired.is_repaired) == (Severity.WARNING, True)
    assert store.find_all() == before
    assert list(store.repair()) == list(store.check()) == []
    last = list(store.history())[-1]
    assert last.kind is EventKind.EXTERNAL
    assert last.environment in before
    assert last.reason == f"fsck: {BY_HAND[spoil]}"
    assert store.find_by_id(last.environment_id).revision == last.seq


def test_white_space_is_no_change(store: FileStore) -> None:
    """A document that was only formatted anew says what was stored."""
    path = store.document_path("b")
    path.write_text(path.read_text().replace("\n", "\n\n"))
    assert list(store.check()) == []


def test_documents_that_the_journal_does_not_know(store: FileStore) -> None:
    """Where a journal began after the documents, they are unknown, and then recorded."""
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


def test_a_newer_document(store: FileStore) -> None:
    """A document of a newer program is an error that only a newer program can mend."""
    path = store.document_path("b")
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    before = contents(store.path)
    for _ in range(2):
        [found] = store.repair()
        assert (found.severity, found.is_repaired) == (Severity.ERROR, False)
        assert "upgrade" in found.remedy
    assert contents(store.path) == before


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_document(store: FileStore) -> None:
    """A file that may not be read is not corrupt: it is reported, and stays."""
    store.document_path("b").chmod(0)
    for _ in range(2):
        [found] = store.repair()
        assert (found.severity, found.is_repaired) == (Severity.ERROR, False)
        assert "cannot be read" in found.problem
    store.document_path("b").chmod(0o600)
    assert list(store.check()) == []


def test_an_unreadable_document_is_not_corrupt(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trouble of the device with one file is reported, and the file stays."""
    real = safe_read.read_regular

    def read(path: str, limit: int) -> bytes:
        if path.endswith("b.json"):
            raise OSError(5, "Input/output error", path)
        return real(path, limit)

    monkeypatch.setattr(documents, "read_regular", read)
    [found] = store.repair()
    assert (found.severity, found.is_repaired) == (Severity.ERROR, False)
    assert found.problem == "cannot be read: Input/output error"


def test_too_large_to_record(store: FileStore) -> None:
    """A hand-made document that would be too large in its regular form stays as it is."""
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


def test_the_reason_of_the_caller(store: FileStore) -> None:
    """Who repairs may say why, and is named in the history."""
    store.document_path("b").unlink()
    with audit(actor="operator", reason="after the flood"):
        assert len(list(store.repair())) == 1
    last = list(store.history("b"))[-1]
    assert (last.actor, last.reason) == ("operator", "after the flood")


def test_findings_come_one_by_one(store: FileStore) -> None:
    """Repair goes on only as its findings are taken, and lets others write in between."""
    store.document_path("a").unlink()
    store.document_path("b").unlink()
    findings = store.repair()
    assert next(findings).path == store.document_path("a")
    assert not store.document_path("b").exists()
    with FileStore(store.path, durable=False, lock_timeout=0) as other:
        other.save(make_environment(id="b", name="mine"))
        assert list(findings) == []
        assert other.find_by_id("b").name == "mine"


def test_what_was_deleted_meanwhile_stays_deleted(store: FileStore) -> None:
    """A document is judged anew under the lock: repair brings nothing back that was deleted."""
    store.document_path("a").write_bytes(b"{")
    store.document_path("b").write_bytes(b"{")
    repairs = store.repair()
    assert next(repairs).path == store.document_path("a")
    store.delete("b")
    assert list(repairs) == []
    with pytest.raises(EnvironmentNotFoundError):
        store.find_by_id("b")


def test_changes_during_a_check_are_no_findings(store: FileStore) -> None:
    """What others store, replace and delete during a check is not taken for damage."""
    zero(store)
    findings = store.check()
    store.document_path("a").write_bytes(b"{")
    assert next(findings).path == store.document_path("a")
    store.delete("b")
    store.save(make_environment(id="b", name="third"))
    store.delete("c")
    store.save(make_environment(id="d"))
    assert list(findings) == []


def test_a_check_while_two_threads_write(store: FileStore) -> None:
    """Whatever writers are in the middle of, a check finds nothing wrong."""
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


# Around the documents.


@pytest.mark.parametrize("name", [".DS_Store", "a.json~", ".a.json.swp", "notes.txt", "A.json"])
def test_files_of_others(store: FileStore, name: str) -> None:
    """What is no document is a warning, and is left alone."""
    path = store.path / "environments" / name
    path.touch()
    before = contents(store.path)
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.WARNING, path)
    assert list(store.repair()) == [found]
    assert contents(store.path) == before


@pytest.mark.parametrize("name", ["notes.txt", "1.jsonl", "0000000000000001.jsonl.bak"])
def test_no_segment(store: FileStore, name: str) -> None:
    """What is no segment is a warning, and is left alone."""
    path = store.path / "journal" / name
    path.touch()
    [found] = store.repair()
    assert (found.severity, found.path, found.is_repaired) == (Severity.WARNING, path, False)
    assert path.exists()


def test_leftover_temporary_files(store: FileStore) -> None:
    """What a dead writer left is a warning, unless somebody may be writing just now."""
    path = store.path / ".waggle" / "tmp" / "0123456789abcdef.tmp"
    path.write_bytes(b"half")
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.WARNING, path)
    with lock_held(store):
        assert list(store.check()) == []


@pytest.mark.parametrize(
    "name",
    [
        "",
        "environments",
        "journal",
        ".waggle",
        "environments/b.json",
        "journal/0000000000000001.jsonl",
        "waggle.json",
        ".waggle/state",
    ],
)
def test_modes(store: FileStore, name: str) -> None:
    """What others than the owner may use is a warning, and stays as it is."""
    path = store.path / name
    mode = path.stat().st_mode | 0o040
    path.chmod(mode)
    for findings in (store.check(), store.repair()):
        [found] = findings
        assert (found.severity, found.path) == (Severity.WARNING, path)
        assert f"{mode & 0o777:04o}" in found.problem
    assert path.stat().st_mode == mode


@pytest.mark.parametrize("content", [None, b"", b"waggle-state 9 nonsense"])
def test_the_state(store: FileStore, content: bytes | None) -> None:
    """A lost or damaged state record is a warning, and made anew."""
    assert list(store.check()) == []
    state = store.path / ".waggle" / "state"
    state.unlink()
    if content is not None:
        state.write_bytes(content)
        state.chmod(0o600)
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.WARNING, state)
    assert [finding.is_repaired for finding in store.repair()] == [True]
    assert list(store.check()) == []
    store.save(make_environment(id="d"))
    with FileStore(store.path, durable=False) as other:
        assert [event.seq for event in other.history()] == [1, 2, 3, 4, 5]


def test_the_marker(store: FileStore) -> None:
    """A marker that is lost is a warning, until the store is opened; a damaged one an error."""
    assert list(store.check()) == []
    marker = store.path / "waggle.json"
    held = marker.read_bytes()
    marker.write_bytes(b"")
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.ERROR, marker)
    marker.write_bytes(held.replace(b"1", b"2"))
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.ERROR, marker)
    marker.unlink()
    for findings in (store.check(), store.repair()):
        [found] = findings
        assert (found.severity, found.path) == (Severity.WARNING, marker)
    store.close()
    with FileStore(store.path, durable=False) as again:
        assert list(again.check()) == []
        assert marker.read_bytes() == held


# The journal.


@pytest.mark.parametrize("part", range(4))
def test_each_byte_of_a_line(tmp_path: Path, part: int) -> None:
    """A byte that flips anywhere in a line is found; repair loses that line and no other."""
    whole, root = tmp_path / "whole", tmp_path / "store"
    with FileStore(whole, durable=False) as store:
        for name in ("a", "b", "c", "d"):
            store.save(Environment(id=name, name=f"first {name}", runtime=Runtime.NODE))
        expected = store.find_all()
        [journal] = segment_paths(store)
    name, good = journal.name, journal.read_bytes()
    line = changes_line(good, 1)
    number = good.count(b"\n", 0, line.start) + 1
    for offset in range(line.start + part, line.end, 4):
        # A copy, whose state nobody trusts.
        shutil.copytree(whole, root)
        flipped = (
            b"\n" if offset % 5 == 0 and offset < line.end - 1 else bytes([good[offset] ^ 0x0A])
        )
        plant(root / "journal" / name, offset, flipped)
        with FileStore(root, durable=False) as damaged:
            errors = [found for found in damaged.check() if found.severity is Severity.ERROR]
            assert {found.path.name for found in errors} == {name}
            assert f"line {number} is damaged" in {found.problem for found in errors}
            with pytest.raises(JournalDamagedError) as caught:
                damaged.save(make_environment(id="new"))
            assert (caught.value.path.name, caught.value.line) == (name, number)
            assert damaged.find_all() == expected
            assert damaged.find_by_id("b") == expected[1]
            assert damaged.count() == 4
            repaired = list(damaged.repair())
            assert {found.is_repaired for found in repaired} == {True}
            assert damaged.save(make_environment(id="new")) > 4
            damaged.delete("new")
            assert damaged.find_all() == expected
            assert [event.environment_id for event in damaged.history(until=1)] == ["a"]
            assert list(damaged.repair()) == []
        shutil.rmtree(root)


def test_a_damaged_line_of_an_open_store(store: FileStore) -> None:
    """Repair in one process is noticed by another that has the segment open."""
    [journal] = segment_paths(store)
    line = changes_line(journal.read_bytes(), 1)
    with FileStore(store.path, durable=False) as other:
        other.save(make_environment(id="a", name="others"))
        plant(journal, line.start + 20, b"#")
        [found] = other.check()
        assert found.severity is Severity.ERROR
        [repaired] = store.repair()
        assert repaired.is_repaired
        [kept] = (store.path / ".waggle" / "lost+found").iterdir()
        assert kept.name == "0000000000000001.1.jsonl"
        assert str(kept) in repaired.remedy
        assert other.save(make_environment(id="a", name="again")) == 6
        assert store.find_by_id("a").name == "again"
        assert [event.seq for event in store.history()] == [1, 3, 4, 5, 6]
    assert list(store.check()) == []


def test_a_damaged_line_during_a_watch(store: FileStore) -> None:
    """Who watches goes on where the repaired segment goes on."""
    events = store.watch(timeout=0)
    store.save(make_environment(id="seen"))
    assert next(events).environment_id == "seen"
    [journal] = segment_paths(store)
    plant(journal, changes_line(journal.read_bytes(), 1).start, b"#")
    assert [found.is_repaired for found in store.repair()] == [True]
    store.save(make_environment(id="d"))
    assert [event.environment_id for event in events] == ["d"]


def test_the_last_line_is_damaged(store: FileStore) -> None:
    """A line that was published is no torn tail, though it is the last."""
    expected = store.find_all()
    [journal] = segment_paths(store)
    line = changes_line(journal.read_bytes(), -1)
    plant(journal, line.start + 50, b"\0\0\0")
    found = list(store.check())
    assert (found[0].severity, found[0].path) == (Severity.ERROR, journal)
    assert all(finding.is_repaired for finding in store.repair())
    assert list(store.repair()) == []
    assert store.find_all() == expected


def test_a_torn_tail(store: FileStore) -> None:
    """Half a line at the end is a warning: a crash leaves that, and nobody was told of it."""
    [journal] = segment_paths(store)
    end = changes_line(journal.read_bytes(), -1).end
    plant(journal, end, b'{"crc":"00000000","changes":[{"seq":')
    [found] = store.check()
    assert (found.severity, found.path) == (Severity.WARNING, journal)
    assert [finding.is_repaired for finding in store.repair()] == [True]
    assert list(store.repair()) == list(store.check()) == []
    assert store.save(make_environment(id="d")) == 5


def test_half_a_line_of_somebody_who_writes(store: FileStore) -> None:
    """While the lock is held, half a line at the end is somebody's work."""
    [journal] = segment_paths(store)
    plant(journal, changes_line(journal.read_bytes(), -1).end, b'{"crc":')
    with lock_held(store):
        assert list(store.check()) == []
    assert len(list(store.check())) == 1


def test_the_first_line_is_damaged(store: FileStore) -> None:
    """The line that says what a segment follows is written anew."""
    fill_segments(store, 30)
    names = segments.list_segments(Layout(str(store.path)))
    middle = Path(Layout(str(store.path)).segment(names[1]))
    good = middle.read_bytes()
    plant(middle, 30, b"#")
    found = list(store.check())
    assert {finding.path for finding in found} == {middle}
    assert Severity.ERROR in {finding.severity for finding in found}
    assert Severity.ERROR not in {
        finding.severity for finding in store.repair() if not finding.is_repaired
    }
    assert middle.read_bytes() == good
    assert list(store.repair()) == list(store.check()) == []


def test_the_whole_live_segment_is_zeroed(tmp_path: Path) -> None:
    """Documents outlive the end of their journal, and the store takes writes again."""
    with FileStore(tmp_path / "store", durable=False) as store:
        fill_segments(store, 30)
        expected = store.find_all()
    live = segment_paths(store)[-1]
    live.write_bytes(bytes(live.stat().st_size))
    with FileStore(store.path, durable=False) as again:
        again_found = list(again.repair())
        assert any(found.is_repaired for found in again_found)
        assert again.find_all() == expected
        assert again.save(make_environment(id="new")) > 30
        again.delete("new")
        list(again.repair())
        assert list(again.repair()) == []
        assert again.find_all() == expected


def test_a_sealed_segment_is_too_short(store: FileStore) -> None:
    """A segment that lost its end gets its length back, and what is left of it counts."""
    fill_segments(store, 30)
    layout = Layout(str(store.path))
    first = segments.list_segments(layout)[1]
    path = Path(layout.segment(first))
    whole = path.read_bytes()
    kept = changes_line(whole, 1).end
    path.write_bytes(whole[:kept])
    found = list(store.check())
    assert [(finding.severity, finding.path) for finding in found] == [(Severity.ERROR, path)]
    assert "too early" in found[0].problem
    with pytest.raises(JournalDamagedError):
        list(store.history())
    assert [finding.is_repaired for finding in store.repair()] == [True]
    assert path.stat().st_size == len(whole)
    assert path.read_bytes() == whole[:kept].ljust(len(whole))
    assert list(store.repair()) == list(store.check()) == []
    assert list(store.history())[-1].seq == 34


def test_a_damaged_compressed_segment(tmp_path: Path) -> None:
    """What can still be read of a damaged compressed segment counts; the file is kept."""
    with FileStore(tmp_path / "store") as store:
        fill_segments(store, 30)
        expected = store.find_all()
        assert store.prune_history(compress=True).segments_compressed > 0
        packed = next(path for path in segment_paths(store) if path.suffix == ".gz")
        good = packed.read_bytes()
        plant(packed, len(good) // 2, bytes(40))
        found = list(store.check())
        assert {(finding.severity, finding.path) for finding in found} == {(Severity.ERROR, packed)}
        damaged = packed.read_bytes()
        assert all(finding.is_repaired for finding in store.repair())
        [kept] = (store.path / ".waggle" / "lost+found").iterdir()
        assert kept.read_bytes() == damaged
        assert not packed.exists()
        assert list(store.repair()) == list(store.check()) == []
        assert store.find_all() == expected
        assert list(store.history())[-1].seq == 30


def test_a_missing_segment(store: FileStore) -> None:
    """A hole in the journal is an error that only a backup mends; the rest goes on."""
    fill_segments(store, 30)
    layout = Layout(str(store.path))
    names = segments.list_segments(layout)
    assert len(names) > 3
    missing = Path(layout.segment(names[1]))
    missing.unlink()
    for findings in (store.check(), store.repair(), store.repair()):
        [found] = findings
        assert (found.severity, found.path) == (Severity.ERROR, missing)
        assert "is missing" in found.problem
        assert not found.is_repaired
    store.save(make_environment(id="new"))


def test_the_oldest_segments_were_pruned(tmp_path: Path) -> None:
    """What pruning removed is not missed, and its documents are not unknown."""
    with FileStore(tmp_path / "store") as store:
        store.save(make_environment(id="old"))
        fill_segments(store, 30)
        assert store.prune_history(keep_bytes=0).segments_removed > 0
        assert "old" not in {event.environment_id for event in store.history()}
        assert list(store.check()) == []
        store.document_path("old").write_bytes(b"{")
        assert [found.is_repaired for found in store.repair()] == [True]
        with pytest.raises(EnvironmentNotFoundError):
            store.find_by_id("old")


def test_the_live_segment_is_missing(store: FileStore) -> None:
    """Without its last segment a store goes on, with the documents that it has."""
    fill_segments(store, 30)
    expected = store.find_all()
    live = segment_paths(store)[-1]
    live.unlink()
    problems = summary(store.check(), store.path)
    assert ("error", f"journal/{live.name}", "is missing, with the last changes") in problems
    list(store.repair())
    assert list(store.repair()) == list(store.check()) == []
    assert store.find_all() == expected


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_segment_that_is_no_file(store: FileStore, kind: str) -> None:
    """What stands in the place of a segment is reported, and not followed."""
    fill_segments(store, 30)
    path = segment_paths(store)[1]
    if kind == "link":
        path.rename(store.path / "elsewhere")
        path.symlink_to(store.path / "elsewhere")
    else:
        path.unlink()
        path.mkdir(mode=0o700)
    found = [finding for finding in store.check() if finding.path == path]
    assert [finding.severity for finding in found] == [Severity.ERROR]
    assert "cannot be read" in found[0].problem


def test_a_segment_of_another_journal(store: FileStore) -> None:
    """A segment that its neighbours do not know of is a warning."""
    fill_segments(store, 30)
    layout = Layout(str(store.path))
    names = segments.list_segments(layout)
    stray = Path(layout.segment(names[1] + 1))
    stray.write_bytes(lines.encode(lines.FOLLOWS, {"segment": names[0], "bytes": 10}))
    stray.chmod(0o600)
    found = {finding.path: finding for finding in store.check()}
    successor = Path(layout.segment(names[2]))
    assert found[successor].severity is Severity.WARNING
    assert stray.name in found[successor].problem


def test_mending_what_is_well(store: FileStore) -> None:
    """A segment that somebody else repaired, or pruned, is left alone."""
    layout = Layout(str(store.path))
    disk: Any = None
    assert damage.repair(layout, disk, 1) == ""
    assert damage.repair(layout, disk, 99) == ""


# All of it together.


def spoil_everything(store: FileStore) -> None:
    """Damage of all kinds at once."""
    fill_segments(store, 30)
    zero(store)
    store.document_path("a").unlink()
    shutil.copy(store.document_path("pad-1"), store.document_path("c"))
    path = store.document_path("pad-2")
    path.write_text(path.read_text().replace('"name": "n', '"name": "by hand n'))
    store.document_path("pad-3").chmod(0o644)
    (store.path / "environments" / ".DS_Store").write_bytes(b"finder")
    (store.path / "journal" / "notes").write_bytes(b"mine")
    journal = segment_paths(store)[1]
    plant(journal, changes_line(journal.read_bytes(), 1).start + 40, b"\xff\0\xff")


def test_nothing_is_ever_deleted(store: FileStore) -> None:
    """Each file that repair replaced is found in lost+found, byte for byte."""
    spoil_everything(store)
    before = contents(store.path)
    list(store.repair())
    after = contents(store.path)
    kept = {data for name, data in after.items() if name.startswith(".waggle/lost+found/")}
    events = {event.environment_id: event for event in store.history(after=34)}
    for name, data in before.items():
        if after.get(name) == data or data in kept:
            continue
        # What a hand wrote got a new revision; what is in a segment grew.
        if name.startswith("journal/"):
            assert after[name].startswith(data.rstrip(b" "))
        else:
            assert events[Path(name).stem].kind is EventKind.EXTERNAL
            assert b"by hand" in after[name]


def test_repair_is_idempotent(store: FileStore) -> None:
    """A second repair finds what the first one does not touch, and changes nothing."""
    spoil_everything(store)
    first = list(store.repair())
    left = [found for found in first if not found.is_repaired]
    assert {found.severity for found in left} == {Severity.WARNING}
    assert sorted(found.path.name for found in left) == [".DS_Store", "notes", "pad-3.json"]
    before = contents(store.path)
    assert list(store.repair()) == left
    assert list(store.check()) == left
    assert contents(store.path) == before


def test_check_finds_what_repair_repairs(store: FileStore) -> None:
    """Both speak of the same files and problems, and a check before changes nothing."""
    spoil_everything(store)
    before = contents(store.path)
    checked = summary(store.check(), store.path)
    assert contents(store.path) == before
    assert summary(store.repair(), store.path) == checked


def test_a_read_only_store(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check needs no right to write, and repair says that it does."""
    zero(store)
    store.close()

    def refuse(path: str, _: int = 0) -> int:
        raise OSError(30, "Read-only file system", path)

    with FileStore(store.path, durable=False) as again:
        monkeypatch.setattr(disk, "open_to_write", refuse)
        monkeypatch.setattr("waggle_fsstore.store.fs.in_place_file.open_to_write", refuse)
        [found] = again.check()
        assert found.path == store.document_path("b")
        with pytest.raises(OSError, match="Read-only"):
            list(again.repair())
        monkeypatch.undo()


def test_recovery_that_is_due(store: FileStore) -> None:
    """Where recovery could not be made, that is said once, and not of each document."""
    with lock_held(store):
        forget_state(store)
        store.document_path("a").unlink()
        with FileStore(store.path, durable=False, lock_timeout=0) as reader:
            assert reader.count() == 3
            problems = [found.problem for found in reader.check()]
            assert any("could not be brought up" in problem for problem in problems)
            assert not any("is missing, but" in problem for problem in problems)
            zero(store)
            assert store.document_path("b") in {found.path for found in reader.check()}


def test_findings_read_well() -> None:
    """A finding is a line that says how bad, where, what, and what to do or what was done."""
    found = Finding(Severity.ERROR, Path("x", "a.json"), "is missing", "repair restores it")
    assert str(found) == f"error: {Path('x', 'a.json')}: is missing (repair restores it)"
    done = Finding(Severity.WARNING, Path("a"), "was changed", "recorded", is_repaired=True)
    assert str(done) == "warning: a: was changed (repaired: recorded)"


def test_delete_keeps_the_same_evidence_once(store: FileStore) -> None:
    """A corrupt document that is deleted again and again is kept once."""
    for _ in range(3):
        store.document_path("b").write_bytes(b"{")
        with pytest.raises(CorruptDocumentError):
            store.find_by_id("b")
        store.delete("b")
    assert len(list((store.path / ".waggle" / "lost+found").iterdir())) == 1
