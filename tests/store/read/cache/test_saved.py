# SPDX-License-Identifier: Apache-2.0
"""Documents that a store object has saved itself, which it opens only if others changed them."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.store.read.cache.listings import by_signature, opened_documents
from tests.store.read.cache.manual_edits import EDITS, by_rename, in_place, in_place_with_its_time
from tests.store.read.cache.test_found import find
from waggle_fsstore import FileStore
from waggle_fsstore.store.fs import disk
from waggle_fsstore.store.fs.linux import is_fine_time
from waggle_fsstore.testing import make_environment

pytestmark = by_signature


class AnyDevice(set[int]):
    """Devices that have all proven to have fine times."""

    def __contains__(self, device: object) -> bool:
        return True


@pytest.fixture
def saver(store: FileStore) -> FileStore:
    """A store object that has just saved document b, on a file system with fine times."""
    store._disk.fine_devices = AnyDevice()
    store.save(make_environment(id="b", name="before"))
    return store


@pytest.fixture
def fine_times(saver: FileStore) -> None:
    """Skip the test where the time of a file may stay the same when it is changed."""
    path = saver.document_path("b")
    for _ in range(100):
        path.stat()
        path.chmod(0o600)
        if is_fine_time(path.stat().st_ctime_ns):
            return
    pytest.skip("needs multigrain timestamps: Linux 6.13 or newer")


@pytest.mark.usefixtures("trusted_change_times")
def test_saved_document_is_not_opened(saver: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither finding nor saving it again reads it, and callers get it as it was saved."""
    expected = FileStore(saver.path, durable=False).find_by_id("b")
    opened = opened_documents(monkeypatch)
    assert (saver.find_by_id("b"), saver.find_by_id("b").revision) == (expected, 4)
    expected.name = "again"
    assert saver.save(expected, if_revision=4) == 5
    assert saver.find_by_id("b") == expected
    saver.delete("b")
    assert opened == []


@pytest.mark.usefixtures("fine_times")
@pytest.mark.parametrize("edit", EDITS)
def test_manual_edit_right_after_a_save_is_found(saver: FileStore, edit: str) -> None:
    """The next read shows a manual edit of any kind, as a new store object shows it."""
    EDITS[edit](saver.document_path("b"))
    assert find(saver) == find(FileStore(saver.path, durable=False))


@pytest.mark.usefixtures("fine_times")
@pytest.mark.parametrize("edit", [in_place, in_place_with_its_time, by_rename])
def test_manual_edit_right_after_a_save_is_recorded(
    saver: FileStore, edit: Callable[[Path], None]
) -> None:
    """The next save keeps it in the history as a version of its own."""
    edit(saver.document_path("b"))
    saver.save(make_environment(id="b", name="next"))
    names = [event.environment.name for event in saver.history("b") if event.environment]
    assert names[-3:] == ["before", "after!", "next"]


@pytest.mark.usefixtures("fine_times")
@pytest.mark.parametrize("edit", ["in place", "deleted", "renamed over", "deleted and recreated"])
def test_manual_edit_before_the_first_look_is_found(
    saver: FileStore, edit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may change a document between its rename and the look at it."""
    replace = disk.Disk.replace

    def replace_and_edit(self: disk.Disk, source: str, target: str) -> None:
        replace(self, source, target)
        EDITS[edit](Path(target))

    with monkeypatch.context() as patch:
        patch.setattr(disk.Disk, "replace", replace_and_edit)
        saver.save(make_environment(id="b", name="before", labels={"n": "2"}))
    assert find(saver) == find(FileStore(saver.path, durable=False))


@pytest.mark.usefixtures("trusted_change_times")
def test_document_linked_during_its_save_is_opened(
    saver: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be edited through another name, and then the directory tells nothing."""
    replace = disk.Disk.replace

    def link_and_replace(self: disk.Disk, source: str, target: str) -> None:
        os.link(source, f"{saver.path}/link")
        replace(self, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(disk.Disk, "replace", link_and_replace)
        saver.save(make_environment(id="b"))
    opened = opened_documents(monkeypatch)
    saver.find_by_id("b")
    assert opened == ["b.json"]


def test_saved_document_is_opened_where_times_are_not_fine(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Elsewhere, an edit within the same tick of the clock would not show."""
    monkeypatch.setattr(disk, "is_fine_time", lambda _: False)
    other = FileStore(store.path, durable=False)
    other.save(make_environment(id="b"))
    opened = opened_documents(monkeypatch)
    other.find_by_id("b")
    other.save(make_environment(id="b"))
    assert opened == ["b.json", "b.json"]


@pytest.mark.usefixtures("trusted_change_times")
def test_large_saved_document_is_opened(saver: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory for each document is bounded."""
    saver.save(make_environment(id="b", name="x" * (1 << 14)))
    opened = opened_documents(monkeypatch)
    saver.find_by_id("b")
    assert opened == ["b.json"]


@pytest.mark.usefixtures("trusted_change_times")
def test_mode_of_saved_document_is_kept(saver: FileStore) -> None:
    """A mode that the operator has set stays, however often the document is saved."""
    saver.document_path("b").chmod(0o640)
    for _ in range(3):
        saver.save(make_environment(id="b"))
    assert saver.document_path("b").stat().st_mode & 0o777 == 0o640
