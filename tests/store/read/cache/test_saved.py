# SPDX-License-Identifier: Apache-2.0
"""Documents that a store object has saved itself, whose bytes it compares with what it saved."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.store.read.cache.listings import by_signature, opened_documents
from tests.store.read.cache.manual_edits import EDITS, by_rename, in_place, in_place_with_its_time
from tests.store.read.cache.test_found import find
from waggle_fsstore import FileStore
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.fs import disk
from waggle_fsstore.store.fs.linux import file_clock
from waggle_fsstore.testing import make_environment

pytestmark = by_signature


@pytest.fixture
def saver(store: FileStore) -> FileStore:
    """A store object that has just saved document b."""
    store.save(make_environment(id="b", name="before"))
    return store


def find_later(store: FileStore) -> None:
    """Find document b at the next tick of the file clock."""
    changed = store.document_path("b").stat().st_ctime_ns
    while file_clock() <= changed:
        pass
    find(store)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the documents that were decoded or parsed, in this order."""
    names: list[str] = []
    real = codec.parse_object

    def parse_object(data: bytes, path: str) -> dict[str, Any]:
        if "environments" in path:
            names.append(Path(path).name)
        return real(data, path)

    monkeypatch.setattr(codec, "parse_object", parse_object)
    return names


def test_saved_document_is_compared(saver: FileStore, decoded: list[str]) -> None:
    """Finding and saving it again compares its bytes; it is decoded once, to be found."""
    expected = FileStore(saver.path, durable=False).find_by_id("b")
    decoded.clear()
    assert (saver.find_by_id("b"), saver.find_by_id("b").revision) == (expected, 4)
    assert decoded == ["b.json"]
    expected.name = "again"
    assert saver.save(expected, if_revision=4) == 5
    saver.save(make_environment(id="b"))
    assert decoded == ["b.json"]


@pytest.mark.usefixtures("trusted_change_times", "cached_from_next_tick")
def test_saved_document_is_not_opened_once_its_time_is_past(
    saver: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From then on, the status of its file proves that it is unchanged."""
    find_later(saver)
    opened = opened_documents(monkeypatch)
    assert [saver.find_by_id("b").name for _ in range(3)] == ["before"] * 3
    assert opened == []


@pytest.mark.parametrize("edit", EDITS)
def test_manual_edit_right_after_a_save_is_found(saver: FileStore, edit: str) -> None:
    """The next read shows a manual edit of any kind, as a new store object shows it."""
    EDITS[edit](saver.document_path("b"))
    assert find(saver) == find(FileStore(saver.path, durable=False))


@pytest.mark.parametrize("edit", [in_place, in_place_with_its_time, by_rename])
def test_manual_edit_right_after_a_save_is_recorded(
    saver: FileStore, edit: Callable[[Path], None]
) -> None:
    """The next save keeps it in the history as a version of its own."""
    edit(saver.document_path("b"))
    saver.save(make_environment(id="b", name="next"))
    names = [event.environment.name for event in saver.history("b") if event.environment]
    assert names[-3:] == ["before", "after!", "next"]


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


@pytest.mark.usefixtures("trusted_change_times", "cached_from_next_tick")
def test_saved_document_with_two_names_is_opened(
    saver: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be edited through another name, and then notifications tell nothing."""
    os.link(saver.document_path("b"), saver.path / "link")
    find_later(saver)
    opened = opened_documents(monkeypatch)
    find(saver)
    assert opened == ["b.json"]


def test_large_saved_document_is_decoded(saver: FileStore, decoded: list[str]) -> None:
    """The memory for each document is bounded."""
    saver.save(make_environment(id="b", name="x" * (1 << 14)))
    decoded.clear()
    for _ in range(2):
        saver.find_by_id("b")
    assert decoded == ["b.json", "b.json"]


def test_mode_is_that_of_the_look(saver: FileStore) -> None:
    """What one thread has looked up keeps its mode when another one sees a later mode."""
    path = saver.document_path("b")
    modes = (0o640, 0o600, 0o644)
    seen = []
    for mode in modes:
        path.chmod(mode)
        seen.append(saver._documents.stored("b"))
    assert [one and one.mode for one in seen] == list(modes)


@pytest.mark.usefixtures("trusted_change_times")
def test_mode_of_saved_document_is_kept(saver: FileStore) -> None:
    """A mode that the operator has set stays, however often the document is saved."""
    for mode in (0o640, 0o644, 0o600):
        saver.document_path("b").chmod(mode)
        for _ in range(2):
            saver.save(make_environment(id="b"))
        assert saver.document_path("b").stat().st_mode & 0o777 == mode
