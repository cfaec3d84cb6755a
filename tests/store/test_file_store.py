# SPDX-License-Identifier: Apache-2.0
"""FileStore: what is true of it beyond the contracts."""

import copy
import json
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.store.locks import lock_held
from waggle_fsstore import (
    ConflictError,
    CorruptDocumentError,
    EnvironmentAlreadyExistsError,
    EnvironmentNotFoundError,
    FileStore,
    InvalidEnvironmentIdError,
    LockTimeoutError,
    UnsupportedFormatError,
    WaggleError,
)
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.format.canonical_json import canonical
from waggle_fsstore.store.format.codec import MAX_DOCUMENT_BYTES
from waggle_fsstore.store.read import document_cache
from waggle_fsstore.testing import make_environment
from waggle_fsstore.testing.repository import INVALID_IDS, ODD_IDS

NEWER = '{"schema": 2, "id": "bad", "revision": 4}'


def _link(path: Path) -> None:
    path.with_name("target").write_text('{"id": "bad", "name": "n", "runtime": "python"}')
    path.symlink_to("target")


def _foreign(path: Path) -> None:
    path.write_text('{"id": "other", "name": "n", "runtime": "python"}')


def _timeless(path: Path) -> None:
    path.write_text('{"id": "bad", "name": "n", "runtime": "python"}')
    os.utime(path, (1e13, 1e13))
    if path.stat().st_mtime < 1e12:  # A file system that cannot hold such a time.
        path.write_text("{")


#: Ways in which the document of the id "bad" may be bad.
CORRUPT: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: path.write_text('{"id": "ba'),
    "empty": lambda path: path.write_text(""),
    "zeroed": lambda path: path.write_bytes(b"\0" * 700),
    "not an object": lambda path: path.write_text("[]"),
    "of another id": _foreign,
    "oversized": lambda path: path.write_bytes(b" " * (MAX_DOCUMENT_BYTES + 1)),
    "symbolic link": _link,
    "dangling link": lambda path: path.symlink_to("nowhere"),
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "without a time": _timeless,
}


def test_documents_are_readable(store: FileStore) -> None:
    """A document is JSON that any program can read, in a file named after its id."""
    store.save(make_environment(id="data-analysis", name="Über"))
    text = (store.path / "environments" / "data-analysis.json").read_text(encoding="utf-8")
    assert '"name": "Über"' in text
    assert json.loads(text)["revision"] == 1
    assert text.endswith("}\n")


def test_git_shows_one_line_for_each_changed_field(store: FileStore) -> None:
    """A diff of two versions has the changed lines and the two fields that always change."""
    store.save(make_environment(id="a", ssh_port=1))
    before = store.document_path("a").read_text().splitlines()
    store.update("a", lambda copy: setattr(copy, "ssh_port", 2))
    after = store.document_path("a").read_text().splitlines()
    changed = [new.split('"')[1] for old, new in zip(before, after, strict=True) if old != new]
    assert changed == ["checksum", "revision", "ssh_port"]


def test_manual_edit_is_seen_by_next_read(store: FileStore) -> None:
    """Reads return what an editor, ``cp`` or ``git checkout`` wrote."""
    store.save(make_environment(id="a", name="before"))
    path = store.document_path("a")
    assert store.find_by_id("a").name == store.find_all()[0].name == "before"
    path.write_text(path.read_text().replace('"before"', '"after!"'))
    assert store.find_by_id("a").name == "after!"
    assert store.find_all()[0].name == "after!"
    store.document_path("b").write_text('{"id": "b", "name": "new", "runtime": "shell"}')
    assert store.find_by_id("b").name == "new"
    assert store.count() == 2
    path.unlink()
    assert [environment.id for environment in store.find_all()] == ["b"]


def test_manual_edit_is_a_conflict(store: FileStore) -> None:
    """A conditional save does not overwrite a manual edit; after another read, it succeeds."""
    revision = store.save(make_environment(id="a", name="before"))
    path = store.document_path("a")
    path.write_text(path.read_text().replace('"before"', '"after!"'))
    with pytest.raises(ConflictError) as caught:
        store.save(make_environment(id="a"), if_revision=revision)
    assert (caught.value.expected, caught.value.actual) == (revision, revision + 1)
    found = store.find_by_id("a")
    assert (found.name, found.revision) == ("after!", revision + 1)
    assert store.save(found, if_revision=found.revision) == revision + 2


def test_manual_edit_cannot_be_expected_by_revision(store: FileStore) -> None:
    """The revision that a manual edit is about to get cannot be expected in advance."""
    revision = store.save(make_environment(id="a", name="before"))
    path = store.document_path("a")
    path.write_text(path.read_text().replace('"before"', '"after!"'))
    with pytest.raises(ConflictError):
        store.save(make_environment(id="a"), if_revision=revision + 1)
    assert store.find_by_id("a").name == "after!"


def test_manual_document_is_not_absent(store: FileStore) -> None:
    """A document without a revision is a version too, and a conflict if the caller expects none."""
    store.save(make_environment(id="b"))
    store.document_path("a").write_text('{"id": "a", "name": "by hand", "runtime": "shell"}')
    with pytest.raises(ConflictError) as caught:
        store.save(make_environment(id="a"), if_revision=0)
    assert (caught.value.expected, caught.value.actual) == (0, 2)
    assert store.find_by_id("a").name == "by hand"


def test_update_keeps_manual_edit(store: FileStore) -> None:
    """An update starts from a manual edit, and runs again if another one happens in between."""
    store.save(make_environment(id="a", name="before", labels={}))
    path = store.document_path("a")
    names: list[str] = []

    def change(copy: object) -> None:
        copy.labels["seen"] = "yes"  # type: ignore[attr-defined]
        names.append(copy.name)  # type: ignore[attr-defined]
        if len(names) == 1:
            path.write_text(path.read_text().replace('"before"', '"after!"'))

    updated = store.update("a", change)
    assert names == ["before", "after!"]
    assert (updated.name, updated.labels) == ("after!", {"seen": "yes"})
    assert updated.revision == 3  # The hand's version has become revision 2.


def test_reformatted_document_keeps_revision(store: FileStore) -> None:
    """White space is no change: a reformatted document still has its revision."""
    revision = store.save(make_environment(id="a"))
    path = store.document_path("a")
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert store.save(make_environment(id="a"), if_revision=revision) == 2


def test_store_that_does_not_recover_changes_nothing(tmp_path: Path) -> None:
    """What a crash has left is read from the journal, and each file stays as it is."""
    crashed = tmp_path / "crashed"
    with FileStore(tmp_path / "store") as store:
        store.create(make_environment(id="one", name="before"))
        old = store.document_path("one").read_bytes()
        store.update("one", lambda it: setattr(it, "name", "after"))
        shutil.copytree(store.path, crashed)
    (crashed / "environments/one.json").write_bytes(old)

    def contents() -> dict[str, bytes]:
        return {str(it): it.read_bytes() for it in crashed.rglob("*") if it.is_file()}

    before = contents()
    with FileStore(crashed, recovers=False) as reader:
        assert reader.find_by_id("one").name == "after"
        assert [it.name for it in reader.find_all()] == ["after"]
        assert [it.seq for it in reader.history()] == [1, 2]
        with pickle.loads(pickle.dumps(reader)) as again:  # noqa: S301
            assert again.find_by_id("one").name == "after"
    assert contents() == before
    with FileStore(crashed):
        assert contents() != before


def test_replaced_files_keep_their_mode(store: FileStore) -> None:
    """The mode that an operator gave to a document is kept by later versions."""
    store.save(make_environment(id="a"))
    store.document_path("a").chmod(0o640)
    store.save(make_environment(id="a"))
    store.update("a", lambda copy: copy.touch())
    assert store.document_path("a").stat().st_mode & 0o777 == 0o640


#: Names that tools give to a copy of x.json which they cannot merge: Syncthing, Dropbox, Google
#: Drive, Nextcloud, OneDrive, iCloud, git, editors. Those of an id are documents, others foreign.
COPIES = {
    "x.conflict1.json": True,
    "x.sync-conflict-20261128-101500-abcdefg.json": True,
    "x.sync-conflict-20261128-101500-ABCDEFG.json": False,
    "x (Maja's conflicted copy 2026-11-28).json": False,
    "x (1).json": False,
    "x_conflict-20261128-101500.json": True,
    "x-laptop.json": True,
    "x-LAPTOP.json": False,
    "x 2.json": False,
    "x.json.orig": False,
    "x.json~": False,
    "%78.json": False,
    "x.orig.json": True,
}


@pytest.mark.parametrize("name", COPIES)
def test_copy_of_document_is_counted_and_reported(store: FileStore, name: str) -> None:
    """A copy under the name of another id is counted and reported as such; others are neither."""
    store.save(make_environment(id="x"))
    copy = store.document_path("x").with_name(name)
    shutil.copy(store.document_path("x"), copy)
    for _ in range(2):  # The second time from the cache.
        reported: list[Exception] = []
        good = store.find_all(on_corrupt=reported.append)
        assert [found.id for found in good] == ["x"]
        assert [str(error) for error in reported] == [
            f"{copy}: is a copy of x.json, the document of 'x' (repair the file or move it away)"
        ][: COPIES[name]]
        assert len(good) + len(reported) == store.count() == 1 + COPIES[name]
    [found] = store.check()
    assert found.path == copy
    store.document_path("x").unlink()
    store.find_all(on_corrupt=reported.append)
    if COPIES[name]:
        assert "is under another name than x.json" in str(reported[-1])


@pytest.mark.parametrize("kind", CORRUPT)
def test_corrupt_document_harms_no_other(store: FileStore, kind: str) -> None:
    """Other ids can be read and written; the corrupt document is reported by path and stays."""
    good = make_environment(id="good")
    store.save(good)
    path = store.document_path("bad")
    CORRUPT[kind](path)
    before = os.lstat(path)

    for call in (
        lambda: store.find_by_id("bad"),
        lambda: store.save(make_environment(id="bad")),
        lambda: store.save(make_environment(id="bad"), if_revision=0),
        lambda: store.create(make_environment(id="bad")),
        lambda: store.update("bad", lambda _: None),
        lambda: store.save_all([make_environment(id="new"), make_environment(id="bad")]),
        lambda: store.find_all(),
    ):
        with pytest.raises(CorruptDocumentError) as caught:
            call()
        assert caught.value.path == path
        assert str(path) in str(caught.value)

    reported: list[Exception] = []
    assert store.find_all(on_corrupt=reported.append) == [good]
    assert [type(error) for error in reported] == [CorruptDocumentError]
    assert store.find_by_id("good") == good
    assert store.count() == 2 == len(reported) + 1
    assert os.lstat(path).st_ino == before.st_ino
    store.save(make_environment(id="good"))
    store.create(make_environment(id="new"), capacity=2)
    store.delete("new")


@pytest.mark.parametrize("kind", CORRUPT)
def test_delete_keeps_corrupt_document_in_lost_and_found(store: FileStore, kind: str) -> None:
    """The bytes are moved to lost+found unchanged, equal ones once, and the id is free again."""
    store.save(make_environment(id="good"))
    path = store.document_path("bad")
    found = []
    is_file = False
    for _ in range(2):
        CORRUPT[kind](path)
        before = os.lstat(path).st_ino
        is_file = path.is_file() and not path.is_symlink()
        store.delete("bad")
        assert not os.path.lexists(path)
        moved = {
            entry.stat(follow_symlinks=False).st_ino: entry
            for entry in os.scandir(store.path / ".waggle" / "lost+found")
        }
        assert before in moved
        found.append(moved[before].name)
        path.with_name("target").unlink(missing_ok=True)
    assert len(set(found)) == (1 if is_file else 2)
    assert all(name.startswith("bad.") for name in found)
    with pytest.raises(EnvironmentNotFoundError):
        store.delete("bad")
    store.create(make_environment(id="bad"))


def test_lost_and_found_overwrites_nothing(store: FileStore) -> None:
    """A name used in lost+found is not used again, even when the numbers start over."""
    store.save(make_environment(id="good"))
    folder = store.path / ".waggle" / "lost+found"
    folder.mkdir()
    for number in range(2, 5):
        (folder / f"bad.{number}.json").write_text("evidence")
    store.document_path("bad").write_text("{")
    store.delete("bad")
    assert (folder / "bad.5.json").read_text() == "{"
    assert (folder / "bad.2.json").read_text() == "evidence"


def test_newer_document_is_left_alone(store: FileStore) -> None:
    """A document of a newer format is neither read nor replaced nor deleted."""
    store.save(make_environment(id="good"))
    path = store.document_path("bad")
    path.write_text(NEWER)
    for call in (
        lambda: store.find_by_id("bad"),
        lambda: store.save(make_environment(id="bad")),
        lambda: store.create(make_environment(id="bad")),
        lambda: store.update("bad", lambda _: None),
        lambda: store.delete("bad"),
        lambda: store.find_all(),
    ):
        with pytest.raises(UnsupportedFormatError) as caught:
            call()
        assert caught.value.path == path
    assert path.read_text() == NEWER
    assert [environment.id for environment in store.find_all(on_corrupt=lambda _: None)] == ["good"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("status", "odd"), ("runtime", "ruby"), ("name", 1), ("revision", "x"), ("id", 1)],
)
def test_checksum_of_another_program_makes_no_document_good(
    store: FileStore, key: str, value: object
) -> None:
    """A document with the right checksum and a wrong value is corrupt for reads and for writes."""
    store.save(make_environment(id="bad"))
    path = store.document_path("bad")
    document = json.loads(path.read_text())
    del document["checksum"]
    document[key] = value
    document["checksum"] = codec._checksum(document)
    path.write_bytes(canonical(document))
    assert codec.is_intact(path.read_bytes())
    with pytest.raises(CorruptDocumentError):
        store.find_by_id("bad")
    with pytest.raises(CorruptDocumentError):
        store.update("bad", lambda _: None)


def test_io_error_is_no_corruption(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be read is reported as such, and never quarantined."""
    with FileStore(store.path, durable=False) as other:  # It keeps in memory what it has saved.
        other.save_all([make_environment(id="bad"), make_environment(id="good")])
    real = os.open

    def open_file(path: str, *rest: Any) -> int:
        if path.endswith("bad.json"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest)

    monkeypatch.setattr(os, "open", open_file)
    for call in (
        lambda: store.find_by_id("bad"),
        lambda: store.save(make_environment(id="bad")),
        lambda: store.delete("bad"),
        lambda: store.find_all(),
    ):
        with pytest.raises(PermissionError):
            call()
    reported: list[Exception] = []
    assert [found.id for found in store.find_all(on_corrupt=reported.append)] == ["good"]
    assert [type(error) for error in reported] == [PermissionError]
    monkeypatch.undo()
    assert store.find_by_id("bad").id == "bad"


def test_lack_of_descriptors_fails_the_listing(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing that runs out of descriptors raises; it does not leave out documents."""
    store.save(make_environment(id="a"))

    def read(path: str, *_: object) -> object:
        raise OSError(24, "Too many open files", path)

    monkeypatch.setattr(document_cache, "read_with_status", read)
    with pytest.raises(OSError, match="Too many open files"):
        store.find_all(on_corrupt=lambda _: None)


def test_other_files_are_ignored(store: FileStore) -> None:
    """Files left by editors and systems are neither listed nor counted nor touched."""
    store.save(make_environment(id="a"))
    names = [
        ".DS_Store",
        "a.json~",
        ".a.json.swp",
        "Thumbs.db",
        "A.json",
        "a.json.tmp",
        "notes.txt",
    ]
    for name in names:
        (store.path / "environments" / name).write_text("not ours")
    assert [environment.id for environment in store.find_all()] == ["a"]
    assert store.count() == 1
    store.delete("a")
    assert sorted(os.listdir(store.path / "environments")) == sorted(names)


@pytest.mark.parametrize("environment_id", [*ODD_IDS, *INVALID_IDS, "../../../../sentinel/file"])
def test_no_id_leads_outside_the_root(tmp_path: Path, environment_id: str) -> None:
    """No id makes the store touch anything outside the environments directory."""
    sentinel = tmp_path / "sentinel"
    sentinel.mkdir()
    # What the last of the ids would mean as a path.
    (sentinel / "file.json").write_text('{"id": "x", "name": "mine", "runtime": "shell"}')
    store = FileStore(tmp_path / "a" / "b" / "store", durable=False)
    store.save(make_environment(id="first"))
    outside = {
        path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if "store" not in path.parts
    }
    environment = make_environment()
    environment.id = environment_id
    for call in (
        lambda: store.save(environment),
        lambda: store.find_by_id(environment_id),
        lambda: store.update(environment_id, lambda copy: copy.touch()),
        lambda: store.delete(environment_id),
        lambda: store.document_path(environment_id),
    ):
        with suppress(WaggleError):
            call()
    assert outside == {
        path: path.lstat().st_mtime_ns for path in tmp_path.rglob("*") if "store" not in path.parts
    }
    assert {path.name for path in store.path.iterdir()} == {
        ".gitignore",
        ".waggle",
        "environments",
        "journal",
        "waggle.json",
    }
    if environment_id not in INVALID_IDS:
        assert store.document_path(environment_id).parent == store.path / "environments"


def test_document_path_of_invalid_id_raises(store: FileStore) -> None:
    """An invalid id has no path."""
    with pytest.raises(InvalidEnvironmentIdError):
        store.document_path("nul\0")


def test_create_after_delete_succeeds(store: FileStore) -> None:
    """The id of a deleted environment is free."""
    store.create(make_environment(id="a"))
    with pytest.raises(EnvironmentAlreadyExistsError):
        store.create(make_environment(id="a"))
    store.delete("a")
    assert store.create(make_environment(id="a")) == 3


def test_save_all_over_bad_document_stores_nothing(store: FileStore) -> None:
    """A batch is atomic also where one of its targets cannot be replaced."""
    store.save(make_environment(id="a", name="old"))
    store.document_path("b").write_text("{")
    with pytest.raises(CorruptDocumentError):
        store.save_all([make_environment(id="a", name="new"), make_environment(id="b")])
    assert store.find_by_id("a").name == "old"


def test_repr_shows_the_path(store: FileStore) -> None:
    """The representation of a store shows its path."""
    assert repr(store) == f"FileStore({str(store.path)!r})"


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A store on a file system that is mounted read-only."""
    with FileStore(tmp_path / "store") as store:
        store.save_all([make_environment(id="a"), make_environment(id="b")])
    mounted = tmp_path / "mounted"
    mounted.mkdir()
    bind = ["mount", "--bind", str(tmp_path / "store"), str(mounted)]
    if os.geteuid() != 0 or subprocess.run(bind, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(mounted)], check=True)
        yield mounted
    finally:
        subprocess.run(["umount", str(mounted)], check=True)


def test_read_only_store_can_be_read(read_only: Path) -> None:
    """All reads work without write access, and a write reports that the store is read-only."""
    with FileStore(read_only) as store:
        assert store.find_by_id("a").id == "a"
        assert [environment.id for environment in store.find_all()] == ["a", "b"]
        assert store.count() == 2
        for call in (
            lambda: store.save(make_environment()),
            lambda: store.delete("a"),
            lambda: store.update("a", lambda copy: copy.touch()),
        ):
            with pytest.raises(OSError, match="Read-only file system") as caught:
                call()
            assert caught.value.filename is not None


def test_read_only_scan_sees_busy_writer(
    read_only: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader without write access sees the changes of a writer during one scan."""
    writer = FileStore(tmp_path / "store", durable=False)
    real = document_cache.DocumentCache.names
    turns: list[int] = []

    def names(self: document_cache.DocumentCache, *opened: int) -> list[str]:
        turns.append(1)
        found = real(self, *opened)
        writer.save(make_environment(id=f"new-{len(turns)}"))
        return found

    monkeypatch.setattr(document_cache.DocumentCache, "names", names)
    with FileStore(read_only) as store:
        assert store.count() == 3
        assert len(store.find_all()) == 4
    assert len(turns) == 2


class Special(FileStore):
    """A store of a class that a caller derives."""


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickled_store_is_opened_again(tmp_path: Path, protocol: int) -> None:
    """It has the class, the path and the options, and a life that does not end with the first."""
    with Special(tmp_path / "store", durable=False, lock_timeout=0.01) as store:
        store.save(make_environment(id="a"))
        loaded = pickle.loads(pickle.dumps(store, protocol))  # noqa: S301  # Just made.
        assert (type(loaded), loaded.path) == (Special, store.path)
        assert not loaded._writer._disk.durable
        with lock_held(store), pytest.raises(LockTimeoutError):
            loaded.save(make_environment(id="b"))
    with loaded:
        loaded.save(make_environment(id="b"))
        assert loaded.count() == 2


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_copied_store_is_another_handle(
    tmp_path: Path, duplicate: Callable[[FileStore], FileStore]
) -> None:
    """The copy of an object is a second handle of the same directory."""
    with FileStore(tmp_path / "store") as store, duplicate(store) as second:
        second.save(make_environment(id="a"))
        assert store.count() == 1
