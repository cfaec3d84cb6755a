# SPDX-License-Identifier: Apache-2.0
"""Snapshots are whole and consistent, and restoring one is a change like any other."""

import errno
import hashlib
import os
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
from tests.store.recorder import Call, record
from waggle_fsstore import (
    CorruptDocumentError,
    EnvironmentNotFoundError,
    EventKind,
    FileStore,
    HistoryPrunedError,
    StoreClosedError,
    UnsupportedFormatError,
    audit,
)
from waggle_fsstore.store.maintenance.snapshot import Snapshot
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.testing import make_environment


@pytest.fixture
def store(store: FileStore) -> FileStore:
    """A store with a, b and c, of which b was changed by hand."""
    for name in ("a", "b", "c"):
        store.save(make_environment(id=name, name=f"first {name}"))
    path = store.document_path("b")
    path.write_text(path.read_text().replace("first b", "by hand"))
    return store


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "copies" / "one"


def documents(folder: Path) -> dict[str, bytes]:
    paths = (folder / "environments").iterdir()
    return {path.name: path.read_bytes() for path in sorted(paths)}


def sums(folder: Path) -> dict[str, str]:
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    return {path: found for found, path in (line.split("  ", 1) for line in lines)}


def test_a_snapshot(store: FileStore, dest: Path) -> None:
    """It holds the documents byte for byte, hand edits included, the marker and the sums."""
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
def test_sha256sum_accepts_it(store: FileStore, dest: Path) -> None:
    """The usual tool verifies a snapshot, and sees what was changed in it."""
    for name in ("Ä" * 100, "UPPER", "a/b", "per%cent", "~tilde", "new\nline", "con"):
        store.save(make_environment(id=name))
    store.snapshot(dest)
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    done = subprocess.run(check, cwd=dest, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (dest / "environments" / "a.json").write_bytes(b"{}")
    assert subprocess.run(check, cwd=dest, capture_output=True, check=False).returncode == 1


def test_a_snapshot_is_a_store(store: FileStore, dest: Path) -> None:
    """What was copied can be opened, and has the same environments."""
    store.snapshot(dest)
    with FileStore(dest, durable=False) as copy:
        assert copy.find_all() == store.find_all()


def test_an_empty_store(tmp_path: Path, dest: Path) -> None:
    """Of a store that was never written to there is a snapshot, too; it founds nothing."""
    with FileStore(tmp_path / "none") as store:
        made = store.snapshot(dest)
    assert (made.seq, made.count) == (0, 0)
    assert documents(dest) == {}
    assert list(sums(dest)) == ["waggle.json"]
    assert not (tmp_path / "none").exists()


def test_an_empty_folder_will_do(store: FileStore, dest: Path) -> None:
    """A folder that is there and empty is filled."""
    dest.mkdir(parents=True)
    assert store.snapshot(dest).count == 3


@pytest.mark.parametrize("kind", ["full", "file", "snapshot"])
def test_what_is_in_the_way(store: FileStore, dest: Path, kind: str) -> None:
    """What is there already is never written into."""
    if kind == "snapshot":
        store.snapshot(dest)
    elif kind == "full":
        dest.mkdir(parents=True)
        (dest / "mine").touch()
    else:
        dest.parent.mkdir()
        dest.write_bytes(b"mine")
    before = sorted(dest.parent.rglob("*"))
    with pytest.raises(FileExistsError, match="empty folder") as caught:
        store.snapshot(dest)
    assert caught.value.filename == str(dest)
    assert sorted(dest.parent.rglob("*")) == before


@pytest.mark.parametrize("name", ["", "environments", "copy", ".waggle/copy"])
def test_not_inside_of_the_store(store: FileStore, name: str) -> None:
    """A snapshot inside of its own store would be a foreign thing in it."""
    with pytest.raises(ValueError, match="inside of its store"):
        store.snapshot(store.path / name)
    assert not (store.path / "copy").exists()


def test_next_to_the_store(store: FileStore) -> None:
    """A name that begins as that of the store is another folder."""
    assert store.snapshot(f"{store.path}-copy").count == 3


def test_private(store: FileStore, dest: Path) -> None:
    """A snapshot is for its owner only, as the store is."""
    store.snapshot(dest)
    modes = {path.stat().st_mode & 0o777 for path in dest.rglob("*") if path.is_file()}
    assert (modes, dest.stat().st_mode & 0o777) == ({0o600}, 0o700)


def test_files_of_others_are_left_out(store: FileStore, dest: Path) -> None:
    """What is no document is none in the copy either."""
    (store.path / "environments" / ".DS_Store").touch()
    assert store.snapshot(dest).count == 3
    assert ".DS_Store" not in documents(dest)


def test_a_corrupt_document(store: FileStore, dest: Path) -> None:
    """A corrupt document is never left out in silence: without a callback it raises."""
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


def test_an_unreadable_document(
    store: FileStore, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trouble with one file is reported as that of a corrupt one; having no resources raises."""
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


def test_a_callback_that_raises(store: FileStore, dest: Path) -> None:
    """Nothing is left of a snapshot that was given up; an empty folder stays."""

    def refuse(error: Exception) -> None:
        raise KeyboardInterrupt from error

    store.document_path("b").write_bytes(b"{")
    dest.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        store.snapshot(dest, on_corrupt=refuse)
    assert list(dest.iterdir()) == []


def test_a_closed_store(store: FileStore, dest: Path) -> None:
    """A closed store makes no snapshot and restores none."""
    store.snapshot(dest)
    store.close()
    with pytest.raises(StoreClosedError):
        store.snapshot(dest)
    with pytest.raises(StoreClosedError):
        store.restore(dest)
    with pytest.raises(StoreClosedError):
        store.restore_revision("a", 1)


def test_it_waits_for_nobody(store: FileStore, dest: Path) -> None:
    """A writer that holds the lock does not hold up a snapshot."""
    with lock_held(store), FileStore(store.path, durable=False, lock_timeout=0) as reader:
        assert reader.snapshot(dest).count == 3


def test_pairs_are_consistent(tmp_path: Path) -> None:
    """While two threads change pairs of documents, each snapshot has both or neither change."""
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
        for copy in made:
            with FileStore(copy.path, durable=False) as opened:
                found = {environment.id: environment.name for environment in opened.find_all()}
            for name in ("x", "y"):
                assert found.get(f"{name}1") == found.get(f"{name}2") or (
                    # One of them was just deleted: each was alone in its change.
                    f"{name}1" not in found
                )
            # It is the store as of the change that it names.
            expected: dict[str, str] = {}
            for event in store.history(until=copy.seq):
                expected.pop(event.environment_id, None)
                if event.environment and event.kind is not EventKind.DELETED:
                    expected[event.environment_id] = event.environment.name
            assert found == expected


def during_the_copy(
    monkeypatch: pytest.MonkeyPatch, name: str, action: Callable[[], object]
) -> None:
    """Do something once, just before a document with some file name is copied."""
    real = Documents.at
    todo = [action]

    def at(self: Documents, wanted: str) -> Any:
        if wanted == name and todo:
            todo.pop()()
        return real(self, wanted)

    monkeypatch.setattr(Documents, "at", at)


def test_changes_during_the_copy(
    store: FileStore, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What changes while documents are copied is laid over: updated, created and deleted."""

    def change() -> None:
        store.save(make_environment(id="a", name="second a"))  # Copied already.
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


def test_a_corrupt_document_that_is_replaced_during_the_copy(
    store: FileStore, dest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was corrupt when it was copied, and is not any more, raises nothing."""
    store.document_path("a").write_bytes(b"{")

    def change() -> None:
        store.delete("a")
        store.save(make_environment(id="a", name="again"))

    during_the_copy(monkeypatch, "b.json", change)
    assert store.snapshot(dest).count == 3
    assert documents(dest) == documents(store.path)


def test_recovery_that_could_not_be_made(store: FileStore, dest: Path) -> None:
    """A reader that cannot recover the store copies what recovery would publish."""
    expected = store.find_all()
    with lock_held(store):
        store.document_path("a").unlink()
        (store.path / ".waggle" / "state").write_bytes(b"")
        with FileStore(store.path, durable=False, lock_timeout=0) as reader:
            made = reader.snapshot(dest)
    assert (made.seq, made.count) == (3, 3)
    assert FileStore(dest, durable=False).find_all() == expected


class Fails:
    """Fails one call of disk.py."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, number: int, _: Call, perform: Callable[[], Any]) -> Any:
        if number != self._number:
            return perform()
        raise OSError(errno.ENOSPC, "No space left on device")


def test_each_call_fails(tmp_path: Path) -> None:
    """Whichever call fails, nothing is left that looks like a snapshot."""
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
                record(patch, Fails(number))
                with pytest.raises(OSError, match="No space left"):
                    store.snapshot(dest)
            assert not dest.exists()


@pytest.mark.parametrize("count", [3, 70])
def test_order_of_the_calls(tmp_path: Path, count: int) -> None:
    """The documents are durable before the folder gets its name, and the sums come last."""
    with FileStore(tmp_path / "store") as store:
        store.save_all([make_environment(id=f"e{number:03}") for number in range(count)])
        with pytest.MonkeyPatch.context() as patch:
            calls = record(patch)
            store.snapshot(tmp_path / "copy")
    names = [(call.name, call.files) for call in calls.calls]
    renames = [files for name, files in names if name == "replace"]
    assert renames == [("environments.part", "environments"), ("SHA256SUMS.part", "SHA256SUMS")]
    named = names.index(("replace", renames[0]))
    flushes = sum(name in ("fdatasync", "fsync") for name, _ in names[:named])
    if count < 64 or not sys.platform.startswith("linux"):
        assert flushes >= count + 2
    assert names[-1][0] == "close"
    assert "fsync" in [name for name, _ in names[named:]]


# Restoring.


def test_a_round_trip(store: FileStore, dest: Path) -> None:
    """What was changed since is as it was, and what was not changed is left alone."""
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


def test_a_second_restore_does_nothing(store: FileStore, dest: Path) -> None:
    """Where all is as in the snapshot, nothing is written."""
    store.snapshot(dest)
    before = documents(store.path)
    assert store.restore(dest).unchanged == 3
    assert documents(store.path) == before
    assert len(list(store.history())) == 3


def test_a_restore_can_be_undone(store: FileStore, dest: Path) -> None:
    """Each version that a restore replaced is in the history, and comes back from there."""
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


def test_all_of_it_is_one_line(store: FileStore, dest: Path) -> None:
    """A restore is one line of the journal: a crash leaves all of it or nothing."""
    store.snapshot(dest)
    for name in ("a", "b", "c"):
        store.save(make_environment(id=name))
    [journal] = (store.path / "journal").iterdir()
    before = journal.read_bytes().count(b"\n")
    assert store.restore(dest).updated == 3
    assert journal.read_bytes().count(b"\n") == before + 1


def test_a_hand_edit_becomes_history_first(store: FileStore, dest: Path) -> None:
    """What a hand made of a document since is in the history, though it is replaced."""
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
def test_a_corrupt_document_in_the_store(store: FileStore, dest: Path, is_wanted: bool) -> None:
    """What is corrupt here is kept in lost+found, and gives way."""
    store.snapshot(dest)
    name = "b" if is_wanted else "d"
    store.document_path(name).write_bytes(b"{ broken")
    done = store.restore(dest)
    assert (done.updated, done.deleted) == ((1, 0) if is_wanted else (0, 1))
    assert [environment.id for environment in store.find_all()] == ["a", "b", "c"]
    [kept] = (store.path / ".waggle" / "lost+found").iterdir()
    assert kept.read_bytes() == b"{ broken"


def test_a_corrupt_document_of_nobody_in_the_store(store: FileStore, dest: Path) -> None:
    """What is corrupt and of no known id stops a restore before it changes anything."""
    store.snapshot(dest)
    store.delete("a")
    stray = store.path / "environments" / f"{'a' * 217}~{'0' * 32}.json"
    stray.write_bytes(b"{")
    with pytest.raises(CorruptDocumentError):
        store.restore(dest)
    assert not store.document_path("a").exists()


def test_a_newer_document_in_the_store(store: FileStore, dest: Path) -> None:
    """A document of a newer program is neither overwritten nor deleted."""
    store.snapshot(dest)
    path = store.document_path("b")
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    store.delete("a")
    before = documents(store.path)
    with pytest.raises(UnsupportedFormatError):
        store.restore(dest)
    assert documents(store.path) == before


def test_into_an_empty_store(store: FileStore, dest: Path, tmp_path: Path) -> None:
    """A snapshot founds a new store."""
    store.snapshot(dest)
    with FileStore(tmp_path / "new", durable=False) as new:
        assert new.restore(dest).created == 3
        assert new.find_all() == store.find_all()


def test_a_folder_without_sums(store: FileStore, tmp_path: Path) -> None:
    """Any folder with documents will do: a copy, or what git has."""
    folder = tmp_path / "plain"
    (folder / "environments").mkdir(parents=True)
    shutil.copy(store.document_path("a"), folder / "environments" / "a.json")
    (folder / "environments" / "notes.txt").write_text("not a document")
    done = store.restore(folder)
    assert (done.deleted, done.unchanged) == (2, 1)
    assert [environment.id for environment in store.find_all()] == ["a"]


def test_documents_that_a_hand_wrote(store: FileStore, tmp_path: Path) -> None:
    """A document may lack all that has a default."""
    folder = tmp_path / "plain" / "environments"
    folder.mkdir(parents=True)
    (folder / "d.json").write_text('{"id": "d", "name": "hand-made", "runtime": "node"}')
    assert store.restore(folder.parent).created == 1
    assert [environment.name for environment in store.find_all()] == ["hand-made"]


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_nothing_to_restore(store: FileStore, tmp_path: Path, name: str) -> None:
    """A folder without documents' folder is not taken for an empty snapshot."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="no documents") as caught:
        store.restore(tmp_path / name)
    assert caught.value.filename == str(tmp_path / name)
    assert store.count() == 3


def change_a_byte(dest: Path) -> Path:
    path = dest / "environments" / "b.json"
    path.write_text(path.read_text().replace("by hand", "BY hand"))
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
def test_a_snapshot_that_was_damaged(
    store: FileStore, dest: Path, spoil: Callable[[Path], Path]
) -> None:
    """What is not as it was when the snapshot was made is named, and nothing is changed."""
    store.snapshot(dest)
    store.delete("a")
    before = documents(store.path)
    path = spoil(dest)
    with pytest.raises(CorruptDocumentError) as caught:
        store.restore(dest)
    assert caught.value.path == path
    assert documents(store.path) == before


def test_a_newer_snapshot(store: FileStore, dest: Path) -> None:
    """A snapshot that a newer program made is refused."""
    store.snapshot(dest)
    (dest / "SHA256SUMS").unlink()
    path = dest / "environments" / "b.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(UnsupportedFormatError):
        store.restore(dest)


def test_who_restores_and_why(store: FileStore, dest: Path) -> None:
    """A restore has the actor and the reason of its caller."""
    store.snapshot(dest)
    store.delete("a")
    with audit(actor="operator", reason="wrong button"):
        store.restore(dest)
    last = list(store.history())[-1]
    assert (last.actor, last.reason) == ("operator", "wrong button")


def test_inside_of_update(store: FileStore, dest: Path) -> None:
    """A callback of update may not restore into the store that waits for it."""
    store.snapshot(dest)
    with pytest.raises(RuntimeError, match="update"):
        store.update("a", lambda _: store.restore(dest))
    with pytest.raises(RuntimeError, match="update"):
        store.update("a", lambda _: store.restore_revision("a", 1))


# One version.


def test_a_version(store: FileStore) -> None:
    """An earlier version comes back as a new one, and what it replaces is in the history."""
    first = store.find_by_id("a")
    store.save(make_environment(id="a", name="second"))
    found = store.restore_revision("a", first.revision)
    assert found == first == store.find_by_id("a")
    assert found.revision == store.find_by_id("a").revision == 5
    last = list(store.history("a"))[-1]
    assert (last.kind, last.reason) == (EventKind.UPDATED, "restored revision 1")


def test_a_version_of_a_deleted_one(store: FileStore) -> None:
    """What was deleted comes back, as created."""
    first = store.find_by_id("a")
    store.delete("a")
    assert store.restore_revision("a", 1) == first
    assert list(store.history("a"))[-1].kind is EventKind.CREATED


def test_a_version_in_the_place_of_a_corrupt_one(store: FileStore) -> None:
    """A corrupt document goes to lost+found and gives way."""
    first = store.find_by_id("a")
    store.document_path("a").write_bytes(b"{")
    assert store.restore_revision("a", 1) == first
    [kept] = (store.path / ".waggle" / "lost+found").iterdir()
    assert kept.read_bytes() == b"{"


def test_a_version_that_a_hand_made(store: FileStore) -> None:
    """A version that was recorded as external is one like any other."""
    by_hand = store.find_by_id("b")
    assert [found.is_repaired for found in store.repair()] == [True]
    seq = list(store.history("b"))[-1].seq
    store.save(make_environment(id="b"))
    assert store.restore_revision("b", seq) == by_hand


@pytest.mark.parametrize(
    ("name", "revision"), [("a", 0), ("a", -1), ("a", 2), ("a", 99), ("missing", 1), ("", 1)]
)
def test_no_such_version(store: FileStore, name: str, revision: int) -> None:
    """A version that never was is not found, and nothing is written."""
    before = documents(store.path)
    with pytest.raises(EnvironmentNotFoundError):
        store.restore_revision(name, revision)
    assert documents(store.path) == before


def test_a_deletion_is_no_version(store: FileStore) -> None:
    """The number of a deletion names nothing that could come back."""
    store.delete("a")
    with pytest.raises(EnvironmentNotFoundError):
        store.restore_revision("a", 4)


def test_a_pruned_version(tmp_path: Path) -> None:
    """Of what was pruned that is said, and where the history begins."""
    with FileStore(tmp_path / "store") as store:
        for number in range(30):
            store.save(make_environment(id="a", name=f"{number}", extra={"pad": "x" * 20_000}))
        oldest = store.prune_history(keep_bytes=0).oldest
        with pytest.raises(HistoryPrunedError) as caught:
            store.restore_revision("a", 1)
        assert caught.value.oldest == oldest
        assert store.restore_revision("a", oldest).name == str(oldest - 1)


def test_a_version_from_a_compressed_segment(tmp_path: Path) -> None:
    """Compressed history is as good as any."""
    with FileStore(tmp_path / "store") as store:
        for number in range(30):
            store.save(make_environment(id="a", name=f"{number}", extra={"pad": "x" * 20_000}))
        assert store.prune_history(compress=True).segments_compressed > 0
        assert store.restore_revision("a", 1).name == "0"


def test_no_link_is_followed(store: FileStore, dest: Path) -> None:
    """A link among the documents of a snapshot is refused."""
    store.snapshot(dest)
    (dest / "SHA256SUMS").unlink()
    path = dest / "environments" / "b.json"
    path.unlink()
    os.symlink(store.document_path("a"), path)
    with pytest.raises(CorruptDocumentError, match="symbolic link"):
        store.restore(dest)
