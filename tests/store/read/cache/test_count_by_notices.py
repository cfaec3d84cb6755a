# SPDX-License-Identifier: Apache-2.0
"""The count after changes: notifications tell it from the last one, without a listing."""

import errno
import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.store.interrupts import interrupted
from tests.store.read.cache.listings import by_inotify, documents_dir, list_all, names_listed
from tests.store.read.cache.test_count import EDITS
from waggle_fsstore import CorruptDocumentError, FileStore
from waggle_fsstore.store.format.layout import Layout
from waggle_fsstore.store.fs.disk import Disk
from waggle_fsstore.store.fs.linux import file_clock
from waggle_fsstore.store.read.document_cache import DocumentCache
from waggle_fsstore.store.read.view import View
from waggle_fsstore.store.write.publish import DocumentWrite
from waggle_fsstore.testing import make_environment

pytestmark = by_inotify

# From one interrupted instruction to the next; the long tests take each of them.
STRIDE = int(os.environ.get("WAGGLE_TEST_STRIDE", "7"))


@pytest.fixture
def counter(store: FileStore) -> FileStore:
    """A store object that counts by notifications, and has read no document."""
    counter = FileStore(store.path, durable=False)
    for name in ("d", "e", "f"):
        store.save(make_environment(id=name))
        counter.count()
    for name in ("d", "e", "f"):
        store.delete(name)
    counter.count()
    return counter


@pytest.fixture
def listings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The listings of the directory by any store object."""
    return names_listed(monkeypatch)


def test_changes_are_counted_without_a_listing(
    counter: FileStore, store: FileStore, listings: list[str]
) -> None:
    """Saves, deletes and manual edits, of this object and another, each show at once."""
    listings.clear()
    counts = []
    for number in range(3):
        for saver in (counter, store):
            saver.save(make_environment(id=f"new-{number}"))
            counts.append(counter.count())
        shutil.copy(store.document_path("a"), store.document_path("copy"))
        counts.append(counter.count())
        store.delete(f"new-{number}")
        store.document_path("copy").unlink()
        counts.append(counter.count())
    assert counts == [4, 4, 5, 3] * 3
    assert listings == []


@pytest.mark.usefixtures("trusted_change_times", "cached_from_next_tick")
def test_count_by_notices_is_known_until_the_next_change(
    counter: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later count of an unchanged store looks at the directory alone."""
    newest = os.stat(documents_dir(counter)).st_ctime_ns
    while file_clock() <= newest:
        pass
    counter.count()
    monkeypatch.setattr(DocumentCache, "count", None)
    assert [counter.count() for _ in range(3)] == [3] * 3


@pytest.mark.parametrize("edit", EDITS)
def test_manual_edit_is_counted(counter: FileStore, edit: str) -> None:
    """The next count includes what any manual edit did to the names."""
    change, expected = EDITS[edit]
    change(counter)
    assert counter.count() == expected


def test_counted_changes_are_read_by_the_next_listing(store: FileStore) -> None:
    """A count takes the notifications that a listing would have taken."""
    list_all(store)
    other = FileStore(store.path, durable=False)
    for number in range(3):
        other.save(make_environment(id="b", name=f"version {number}"))
        other.save(make_environment(id=f"new-{number}"))
        assert store.count() == 4 + number
        other.document_path("c").write_text("{")
        assert store.count() == 4 + number
        assert list_all(store) == list_all(FileStore(store.path, durable=False))
        other.delete("c")
        other.save(make_environment(id="c"))


def test_count_and_listings_agree_after_any_changes(store: FileStore) -> None:
    """However counts, listings and changes follow each other, each is that of a new object."""
    chance = random.Random(5)  # noqa: S311  # no secret
    other = FileStore(store.path, durable=False)
    for _ in range(200):
        name = chance.choice("abcdefgh")
        path = store.document_path(name)
        change = chance.choice(["save", "remove", "copy", "rename"])
        if change == "save":
            with suppress(CorruptDocumentError):  # A copy of another document is in its place.
                other.save(make_environment(id=name))
        elif change == "remove" and path.exists():
            path.unlink()
        elif change == "copy" and store.document_path("a").exists() and name != "a":
            shutil.copy(store.document_path("a"), path)
        elif path.exists():
            os.replace(path, store.document_path(chance.choice("abcdefgh")))
        new = FileStore(store.path, durable=False)
        if chance.random() < 0.7:
            assert store.count() == new.count()
        if chance.random() < 0.3:
            assert list_all(store) == list_all(new)


@contextmanager
def batch_in_progress(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], None]]:
    """Stop a batch of two new documents before the second one is in place.

    Yields a function that lets it end, which it does in any case.
    """
    stopped, go_on = threading.Event(), threading.Event()

    class Stopping(DocumentWrite):
        def publish(self, disk: Disk, layout: Layout) -> None:
            if self.id == "y":
                stopped.set()
                go_on.wait(timeout=10)
            super().publish(disk, layout)

    new = [make_environment(id=name) for name in "xy"]
    thread = threading.Thread(target=lambda: store.save_all(new))

    def finish() -> None:
        go_on.set()
        thread.join()

    with monkeypatch.context() as patch:
        patch.setattr("waggle_fsstore.store.write.batch.DocumentWrite", Stopping)
        thread.start()
        try:
            assert stopped.wait(timeout=10)
            yield finish
        finally:
            finish()


def test_batch_in_progress_is_counted_whole(
    counter: FileStore, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that is durable counts with all its documents, although one is not in place."""
    monkeypatch.setattr("waggle_fsstore.store.read.view._PUBLISH_TIMEOUT_S", 0)
    with batch_in_progress(store, monkeypatch):
        assert counter.count() == 5
    assert counter.count() == 5


def test_batch_that_ends_during_a_count_is_counted_whole(
    counter: FileStore, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notifications of half a batch are not the count, even if it is published a moment later."""
    real = View._is_idle

    with batch_in_progress(store, monkeypatch) as finish, monkeypatch.context() as patch:

        def is_idle(self: View) -> bool:
            finish()
            return real(self)

        patch.setattr(View, "_is_idle", is_idle)
        assert counter.count() == 5


@pytest.mark.parametrize("read", ["count", "find_all"])
def test_interrupt_at_any_instruction_leaves_nothing_out(store: FileStore, read: str) -> None:
    """Ctrl-C between any two instructions of a count or a listing hides no later change."""
    files = ("read/document_cache.py", "read/change_detector.py", "read/inotify.py")
    other = FileStore(store.path, durable=False)
    for _ in range(3):
        store.count()
    number = 0
    is_interrupted = True
    while is_interrupted:
        number += STRIDE
        other.save(make_environment(id="a", name="old"))
        is_interrupted = interrupted(getattr(store, read), files, number)
        other.save(make_environment(id="a", name="new"))
        if has_d := number % 2:
            other.save(make_environment(id="d"))
        else:
            other.delete("d")
        assert store.count() == 3 + has_d
        found = store.find_all()
        assert [one.id for one in found] == list("abcd")[: 3 + has_d]
        assert found[0].name == "new"
    assert number > 100


def fail_at_new(patch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let the look at the name of the environment "new" fail."""
    real = os.lstat

    def lstat(path: str) -> os.stat_result:
        if path.endswith("new.json"):
            raise error
        return real(path)

    patch.setattr(os, "lstat", lstat)


def test_name_that_cannot_be_looked_up_is_counted(
    counter: FileStore, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a missing file is none: where a look fails, the names are listed."""
    store.save(make_environment(id="new"))
    with monkeypatch.context() as patch:
        fail_at_new(patch, OSError(errno.EIO, os.strerror(errno.EIO)))
        assert counter.count() == 4
    assert counter.count() == 4


def test_interrupted_count_leaves_nothing_out(
    counter: FileStore, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Notifications that were read and not yet used are lost: names are listed again."""
    store.save(make_environment(id="new"))
    with monkeypatch.context() as patch:
        fail_at_new(patch, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            counter.count()
    assert counter.count() == 4
