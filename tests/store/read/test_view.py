# SPDX-License-Identifier: Apache-2.0
"""Listing and counting while other store objects write."""

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.store.locks import lock_held
from waggle_fsstore import (
    CorruptDocumentError,
    FileStore,
    StoreClosedError,
    StoreError,
    StoreGoneError,
)
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.journal import changes, state
from waggle_fsstore.store.journal.live_segment import LiveSegment
from waggle_fsstore.store.read import pending_overlay, view
from waggle_fsstore.store.read.document_cache import DocumentCache
from waggle_fsstore.store.read.documents import Documents
from waggle_fsstore.store.write.publish import DocumentWrite
from waggle_fsstore.testing import make_environment

Names = Callable[[Documents], list[str]]


@pytest.fixture
def store(store: FileStore) -> FileStore:
    """A store with a, b and c."""
    store.save_all([make_environment(id=name) for name in "abc"])
    return store


def during_listings(
    monkeypatch: pytest.MonkeyPatch, *events: Callable[[list[str]], list[str]]
) -> list[int]:
    """Let the n-th event change the n-th listing of the directory; return the listings so far."""
    real = DocumentCache.names
    listings: list[int] = []

    def names(self: DocumentCache, *opened: int) -> list[str]:
        listings.append(len(listings))
        found = real(self, *opened)
        return events[listings[-1]](found) if listings[-1] < len(events) else found

    monkeypatch.setattr(DocumentCache, "names", names)
    return listings


def test_idle_store_is_listed_once(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing changes, one listing of the directory is enough."""
    seen = during_listings(monkeypatch)
    assert store.count() == 3
    assert len(store.find_all()) == 3
    assert len(seen) == 2


def test_scan_adds_what_listing_misses(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan finds a file that btrfs or tmpfs hides while it is renamed over."""
    other = FileStore(store.path, durable=False)

    def hide(names: list[str]) -> list[str]:
        other.save(make_environment(id="b", name="new"))
        return [name for name in names if name != "b.json"]

    seen = during_listings(monkeypatch, hide, hide)
    assert [environment.id for environment in store.find_all()] == ["a", "b", "c"]
    assert store.count() == 3
    assert len(seen) == 2


def test_scan_sees_whole_batches(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan that reads one document before a batch and one after it shows both as after it."""
    other = FileStore(store.path, durable=False)
    real = Documents.read_all

    def read_all(self: Documents) -> Any:
        before = self.find("a")
        other.save_all([make_environment(id="a", name="new"), make_environment(id="b", name="new")])
        other.delete("c")
        after, bad = real(self)
        return [before, *(found for found in after if found.id != "a")], bad

    monkeypatch.setattr(Documents, "read_all", read_all)
    found = store.find_all()
    assert [(environment.id, environment.name) for environment in found] == [
        ("a", "new"),
        ("b", "new"),
    ]


def test_scan_sees_batch_of_stopped_writer(store: FileStore) -> None:
    """A scan shows all of a batch that is durable and only partly in place, without waiting."""
    reader = FileStore(store.path, durable=False)
    seen: list[list[str]] = []

    class Stopped(DocumentWrite):
        """Stops before the second rename of a batch."""

        def publish(self, disk: Disk, layout: Layout) -> None:
            if self.path.endswith("b.json"):
                seen.append([environment.name for environment in reader.find_all()])
                seen.append([str(reader.count())])
            super().publish(disk, layout)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("waggle_fsstore.store.write.batch.DocumentWrite", Stopped)
        store.save_all([make_environment(id=name, name="new") for name in "abcd"])
    assert seen == [["new"] * 4, ["4"]]


def test_scan_sees_whole_batches_of_several_mounts(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers in containers that share a volume see it in mounts of their own."""
    mounts = iter(range(100))
    writers = []
    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(state, "mount_id", lambda _: next(mounts))
            writers.append(FileStore(store.path, durable=False))
            writers[-1].save(make_environment(id="c"))
    real = Documents.read_all
    scans: list[int] = []

    def read_all(self: Documents) -> Any:
        before = self.find("a")
        scans.append(len(scans))
        batch = [make_environment(id=name, name=f"new {len(scans)}") for name in "ab"]
        writers[len(scans) % 2].save_all(batch)
        after, bad = real(self)
        return [before, *(found for found in after if found.id != "a")], bad

    monkeypatch.setattr(Documents, "read_all", read_all)
    for _ in range(2):
        found = {environment.id: environment.name for environment in store.find_all()}
        assert found["a"] == found["b"] == f"new {len(scans)}"
    assert len(scans) == 2


def test_scan_agrees_with_writers_without_birth_times(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One writer has statx, another has not: the sandbox of its container lacks it, for example."""
    with monkeypatch.context() as patch:
        patch.setattr(state, "birth_time", lambda _: 0)
        other = FileStore(store.path, durable=False)
        other.save(make_environment(id="c"))
    writers = [store, other]
    real = DocumentCache.names

    def names(self: DocumentCache, *opened: int) -> list[str]:
        writers.reverse()
        writers[0].save(make_environment(id="d"))
        return real(self, *opened)

    reader = FileStore(store.path, durable=False)
    monkeypatch.setattr(DocumentCache, "names", names)
    assert reader.count() == 4
    assert [one.id for one in reader.find_all()] == list("abcd")


@pytest.mark.parametrize("when", ["before the scan", "during the scan"])
def test_scan_sees_whole_batches_without_state_record(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A scan shows all of a batch, or nothing, while another program removes .waggle."""
    reader = FileStore(store.path, durable=False)
    real = Documents.read_all
    seen: list[list[str]] = []

    def remove(_: object = None) -> None:
        shutil.rmtree(store.path / ".waggle", ignore_errors=True)

    def read_all(self: Documents) -> Any:
        found = real(self)
        remove()
        return found

    class Stopped(DocumentWrite):
        """Stops before the second rename of a batch."""

        def publish(self, disk: Disk, layout: Layout) -> None:
            if self.path.endswith("b.json"):
                if when == "before the scan":
                    remove()
                seen.append([environment.name for environment in reader.find_all()])
                seen.append([str(reader.count())])
            super().publish(disk, layout)

    with monkeypatch.context() as patch:
        patch.setattr(Documents, "read_all", read_all)
        patch.setattr("waggle_fsstore.store.write.batch.DocumentWrite", Stopped)
        with suppress(OSError, StoreError):  # The temp files are gone too.
            store.save_all([make_environment(id=name, name="new") for name in "abcd"])
    assert seen == [["new"] * 4, ["4"]]


def test_scan_of_exchanged_stores_is_an_error(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scan that can never see one store from its beginning to its end says so."""
    stores = iter(range(1000))
    real = state.read_state

    def read_state(path: str) -> state.State | None:
        found = real(path)
        return found and found._replace(mounted_id=f"boot:1:2:{next(stores)}")

    monkeypatch.setattr(view, "read_state", read_state)
    with pytest.raises(StoreError, match="try again"):
        store.find_all()


def test_scan_ends_where_its_overlay_ends(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that another process adds after the journal was read is not part of the scan."""
    reader = FileStore(store.path, durable=False)
    (store.path / ".waggle" / "state").unlink()

    def last_of_each(found: Any) -> Any:
        overlay = changes.last_of_each(found)
        store.save(make_environment(id="d"))
        return overlay

    monkeypatch.setattr(pending_overlay, "last_of_each", last_of_each)
    scan = reader._view.scan(reader._documents.names)
    assert scan.seq == max(change["seq"] for change in scan.overlay.values())


class UnsyncedError(Exception):
    """Ends a write before its line is synced."""


def test_other_mounts_show_nothing_before_it_is_synced(
    durable_store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change whose sync fails was never seen, also not in a mount that is read-only."""
    store = durable_store
    store.save(make_environment(id="a", name="old"))
    early = FileStore(store.path)
    seen: list[list[object]] = []

    def look() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(state, "mount_id", lambda _: 7)
            with FileStore(store.path) as late:
                for reader in (early, late):
                    seen.append([environment.name for environment in reader.find_all()])
                    seen.append([reader.find_by_id("a").name, reader.count()])
                    seen.append([event.seq for event in reader.history()])

    def sync(_: LiveSegment) -> None:
        look()
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(LiveSegment, "sync", sync)
        with pytest.raises(OSError, match="Input/output"):
            store.save_all([make_environment(id=name, name="new") for name in "ab"])
    look()
    assert seen == [["old"], ["old", 1], [1]] * 4


def test_lines_of_dead_writer_are_synced_before_they_are_shown(
    durable_store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a writer died before its sync and recovery is impossible, the reader syncs."""
    store = durable_store
    store.save(make_environment(id="a", name="old"))

    def die(_: LiveSegment) -> None:
        raise UnsyncedError

    with monkeypatch.context() as patch:
        patch.setattr(LiveSegment, "sync", die)
        patch.setattr("waggle_fsstore.store.write.writer.Writer._roll_back", lambda *_: None)
        with pytest.raises(UnsyncedError):
            store.save(make_environment(id="a", name="new"))
    store._writer._session.close()
    monkeypatch.setattr(state, "mount_id", lambda _: 7)
    synced: list[str] = []
    monkeypatch.setattr(Disk, "sync_file", lambda _, path: synced.append(Path(path).parent.name))
    with lock_held(store):
        reader = FileStore(store.path)
        assert reader.find_by_id("a").name == "new"
        assert synced == ["journal"]


def test_busy_writer_of_unknown_mount_delays_no_reader(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that cannot trust the state record sees it change while it looks, and uses it."""
    names = iter(["first", "second", "third"])

    def save(*_: object) -> None:
        store.save(make_environment(id="a", name=next(names)))

    with lock_held(store):
        monkeypatch.setattr(state, "birth_time", lambda _: 0)
        reader = FileStore(store.path)
    monkeypatch.setattr(Disk, "sync_file", save)
    assert reader.find_by_id("a").name == "first"
    assert [event.seq for event in reader.history(after=4)] == [5]
    assert reader.find_all()[0].name == "third"


@pytest.mark.parametrize("has_state_record", [True, False])
def test_disk_image_without_fsync_is_read(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, has_state_record: bool
) -> None:
    """A store on squashfs or an ISO image is read, though nothing can be synced there."""
    if not has_state_record:
        (store.path / ".waggle" / "state").unlink()

    def fail(*_: object) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    store._writer._session.close()
    monkeypatch.setattr(state, "mount_id", lambda _: 7)
    monkeypatch.setattr(Disk, "sync", fail)
    with lock_held(store):
        reader = FileStore(store.path)
        assert [one.id for one in reader.find_all()] == list("abc")
        assert reader.count() == len(list(reader.history())) == 3


SCRIPT = """
import subprocess, sys
from waggle_fsstore import FileStore
from waggle_fsstore.store.journal.live_segment import LiveSegment
from waggle_fsstore.testing import make_environment

root, mount = sys.argv[1:]
store = FileStore(root)
store.save(make_environment(id="a", name="old"))
subprocess.run(["mount", "--bind", root, mount], check=True)
subprocess.run(["mount", "-o", "remount,ro,bind", mount], check=True)

def sync(_):
    reader = FileStore(mount)
    print([one.name for one in reader.find_all()], [event.seq for event in reader.history()])
    raise OSError(5, "failed")

real, LiveSegment.sync = LiveSegment.sync, sync
try:
    store.save(make_environment(id="a", name="new"))
except OSError:
    LiveSegment.sync = real
store.save(make_environment(id="b", name="b"))
reader = FileStore(mount)
print([one.name for one in reader.find_all()], [event.seq for event in reader.history()])
"""


def test_read_only_bind_mount_shows_nothing_before_it_is_synced(root: Path, tmp_path: Path) -> None:
    """What holds for mounts in theory holds for one that a container runtime makes."""
    mount = tmp_path / "mount"
    mount.mkdir()
    command = ["unshare", "--mount", sys.executable, "-c", SCRIPT, str(root), str(mount)]
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("needs unshare and root")
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare failed" in ran.stderr or "mount:" in ran.stderr:
        pytest.skip(f"cannot mount here: {ran.stderr}")
    assert ran.stdout.splitlines() == ["['old'] [1]", "['old', 'b'] [1, 3]"], ran.stderr


def test_scan_waits_until_its_changes_are_published(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read of one document after a scan never returns an older version."""
    reader = FileStore(store.path, durable=False)
    inside, done = threading.Event(), threading.Event()

    class Slow(DocumentWrite):
        def publish(self, disk: Disk, layout: Layout) -> None:
            inside.set()
            done.wait()
            super().publish(disk, layout)

    monkeypatch.setattr("waggle_fsstore.store.write.batch.DocumentWrite", Slow)
    monkeypatch.setattr("waggle_fsstore.store.read.view._PUBLISH_TIMEOUT_S", 60)
    monkeypatch.setattr("waggle_fsstore.store.read.view.time.sleep", lambda _: done.set())
    writer = threading.Thread(target=store.save, args=[make_environment(id="a", name="new")])
    writer.start()
    inside.wait()
    assert reader.find_all()[0].name == "new"
    assert reader.find_by_id("a").name == "new"
    writer.join()


def test_on_corrupt_may_write(store: FileStore) -> None:
    """A bad file is reported while no lock is held."""
    store.document_path("b").write_text("{")
    deleted: list[str] = []

    def on_corrupt(_: Exception) -> None:
        store.delete("b")
        deleted.append("b")

    assert [environment.id for environment in store.find_all(on_corrupt=on_corrupt)] == ["a", "c"]
    assert deleted == ["b"]


def test_copied_documents_are_read_without_store(tmp_path: Path) -> None:
    """Documents that were copied manually are readable, and reading creates no store."""
    store = FileStore(tmp_path / "old", durable=False)
    store.save(make_environment(id="a"))
    directory = tmp_path / "copied" / "environments"
    directory.mkdir(parents=True)
    (directory / "a.json").write_bytes(store.document_path("a").read_bytes())
    copied = FileStore(tmp_path / "copied")
    assert copied.count() == len(copied.find_all()) == 1
    assert list(copied.history()) == []
    assert [path.name for path in (tmp_path / "copied").iterdir()] == ["environments"]


@pytest.mark.parametrize("kind", ["pipe", "directory", "garbage"])
def test_reads_survive_bad_state_record(store: FileStore, kind: str) -> None:
    """Reads continue whatever is in place of the state record, and a write reports its path."""
    path = store.path / ".waggle" / "state"
    path.unlink()
    {"pipe": lambda: os.mkfifo(path), "directory": path.mkdir, "garbage": path.touch}[kind]()
    assert store.count() == len(store.find_all()) == 3
    store = FileStore(store.path, durable=False)
    assert store.count() == len(store.find_all()) == 3
    if kind == "garbage":
        store.save(make_environment(id="a"))
    else:
        with pytest.raises(OSError, match="state") as caught:
            store.save(make_environment(id="a"))
        assert caught.value.filename == str(path)


def test_document_deleted_during_scan_is_skipped(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is removed before it is read is neither listed nor an error."""

    def remove(names: list[str]) -> list[str]:
        os.unlink(store.document_path("b"))
        return names

    during_listings(monkeypatch, remove)
    assert [environment.id for environment in store.find_all()] == ["a", "c"]


def test_iteration_reads_each_document_at_its_turn(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An iteration keeps no document in memory before its turn, and shows what is stored then."""
    opened: list[str] = []
    real = Documents.named

    def named(self: Documents, name: str) -> Any:
        opened.append(name)
        return real(self, name)

    monkeypatch.setattr(Documents, "named", named)
    iteration = store.iter_all()
    assert not opened
    first = next(iteration).id
    assert opened == [f"{first}.json"]
    changed, deleted = {"a", "b", "c"} - {first}
    store.save(make_environment(id=changed, name="new"))
    store.delete(deleted)
    assert [(one.id, one.name) for one in iteration] == [(changed, "new")]


def test_iteration_adds_what_listing_misses(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An iteration gives a document whose name is hidden while its file is renamed over."""
    other = FileStore(store.path, durable=False)

    def hide(names: list[str]) -> list[str]:
        other.save(make_environment(id="b", name="new"))
        return [name for name in names if name != "b.json"]

    during_listings(monkeypatch, hide)
    assert {one.id: one.name for one in store.iter_all()}["b"] == "new"


def test_iteration_reports_bad_documents(store: FileStore) -> None:
    """A bad document is reported at its turn, or raised; the others are given."""
    store.document_path("b").write_text("{")
    errors: list[Exception] = []
    assert {one.id for one in store.iter_all(on_corrupt=errors.append)} == {"a", "c"}
    assert [type(error) for error in errors] == [CorruptDocumentError]
    with pytest.raises(CorruptDocumentError):
        list(store.iter_all())


def test_iteration_of_removed_store_raises(store: FileStore) -> None:
    """An iteration does not end early, as if all were given, where the store is gone."""
    iteration = store.iter_all()
    next(iteration)
    shutil.rmtree(store.path)
    with pytest.raises(StoreGoneError):
        next(iteration)


def test_iteration_of_closed_store_raises(store: FileStore) -> None:
    """An iteration raises once its store was closed, as every other read does."""
    iteration = store.iter_all()
    store.close()
    with pytest.raises(StoreClosedError):
        next(iteration)


def test_iteration_gives_pending_changes(store: FileStore) -> None:
    """Where recovery is impossible, an iteration gives what recovery would publish."""
    old = {name: store.document_path(name).read_bytes() for name in "ab"}
    store.save(make_environment(id="a", name="new"))
    store.delete("b")
    store.save(make_environment(id="d"))
    store._writer._session.close()
    for name, data in old.items():
        store.document_path(name).write_bytes(data)
    store.document_path("d").unlink()
    (store.path / ".waggle" / "state").unlink()
    with lock_held(store):
        reader = FileStore(store.path, durable=False)
        found = {one.id: one.name for one in reader.iter_all()}
        assert found == {one.id: one.name for one in reader.find_all()}
    assert found.keys() == {"a", "c", "d"}
    assert found["a"] == "new"
