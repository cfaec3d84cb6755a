# SPDX-License-Identifier: Apache-2.0
"""Which documents are cached, and which are read again."""

import os
import shutil
from dataclasses import fields
from typing import Any

import pytest

from tests.store.read.cache.listings import (
    by_signature,
    cached_names,
    documents_dir,
    list_all,
    list_uncached,
    opened_documents,
    settle,
)
from tests.store.read.cache.manual_edits import (
    away_and_back,
    by_rename,
    edited,
    in_place,
    in_place_with_its_time,
    rewrite,
)
from waggle_fsstore import Environment, FileStore
from waggle_fsstore.store.fs import safe_read
from waggle_fsstore.store.fs.linux import file_clock
from waggle_fsstore.store.read import document_cache, stat_signature
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.usefixtures("trusted_change_times")


@pytest.mark.usefixtures("cached_from_next_tick")
def test_listing_opens_changed_documents_only(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing opens the documents that changed since the last one, and no others."""
    settle(store)
    opened = opened_documents(monkeypatch)
    before = list_all(store)
    assert opened == []
    FileStore(store.path, durable=False).save(make_environment(id="c"))
    assert list_all(store)[0][:2] == before[0][:2]
    assert opened == ["c.json", "c.json"]  # First by the save.


@by_signature
def test_recently_changed_document_is_not_cached(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document is cached only when later changes can no longer have the same time."""
    changed = [entry.stat().st_ctime_ns for entry in os.scandir(documents_dir(store))]
    monkeypatch.setattr(document_cache, "file_clock", lambda: min(changed) + 1_900_000_000)
    list_all(store)
    assert cached_names(store) == set()
    monkeypatch.setattr(document_cache, "file_clock", lambda: max(changed) + 2_100_000_000)
    list_all(store)
    assert cached_names(store) == {"a.json", "b.json", "c.json"}


def test_untrusted_file_system_is_not_cached(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that may not timestamp each change, every listing reads all documents."""
    monkeypatch.setattr(stat_signature, "_SETTLING_TIME_NS", 0)
    monkeypatch.setattr(stat_signature, "_has_change_times", lambda *_: False)
    settle(store)
    assert cached_names(store) == set()


@pytest.mark.usefixtures("cached_from_next_tick")
def test_bad_and_large_documents_are_not_cached(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bad and large documents are read each time, and deleted ones leave the cache."""
    store.save(make_environment(id="large", extra={"padding": "x" * (1 << 14)}))
    store.document_path("bad").write_text("{")
    settle(store)
    assert cached_names(store) == {"a.json", "b.json", "c.json"}
    opened = opened_documents(monkeypatch)
    store.delete("a")
    del opened[:]
    list_all(store)
    assert [name for name in opened if name != "a.json"] == ["bad.json", "large.json"]
    assert cached_names(store) == {"b.json", "c.json"}


@pytest.mark.usefixtures("cached_from_next_tick")
def test_change_during_read_is_seen(store: FileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change between the stat of a file and the end of its read is seen by the next listing."""
    settle(store)
    path = store.document_path("b")
    old, new = path.read_bytes(), edited(path)
    for change in (in_place, in_place_with_its_time, by_rename, away_and_back):
        for is_first in (True, False):
            rewrite(path, old)
            settle(store)
            path.touch()  # So that it is read, and the edit during the read is a second change.
            while file_clock() <= path.stat().st_ctime_ns:
                pass

            def read(name: str, *rest: Any) -> Any:
                if is_first and name.endswith("b.json"):  # noqa: B023
                    change(path)  # noqa: B023
                data = safe_read.read_with_status(name, *rest)
                if not is_first and name.endswith("b.json"):  # noqa: B023
                    change(path)  # noqa: B023
                return data

            with monkeypatch.context() as patch:
                patch.setattr(document_cache, "read_with_status", read)
                list_all(store)
            assert path.read_bytes() == new
            assert list_all(store) == list_uncached(store)


@pytest.mark.usefixtures("cached_from_next_tick")
def test_directories_swapped_during_read_are_seen(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A document read from one directory is not cached for its name in another directory."""
    old, new = documents_dir(store).with_name("old"), documents_dir(store).with_name("new")
    shutil.copytree(documents_dir(store), new)
    rewrite(new / "b.json", edited(new / "b.json"))
    while file_clock() <= (new / "b.json").stat().st_ctime_ns:
        pass

    def read(name: str, *rest: Any) -> Any:
        data = safe_read.read_with_status(name, *rest)
        if name.endswith("b.json"):
            documents_dir(store).rename(old)
            new.rename(documents_dir(store))
        return data

    with monkeypatch.context() as patch:
        patch.setattr(document_cache, "read_with_status", read)
        assert [one.name for one, _ in list_all(store)[0]] == ["before"] * 3
    for name, directory in (("after!", new), ("before", old)):
        assert [one.name for one, _ in list_all(store)[0]] == ["before", name, "before"]
        assert list_all(store) == list_uncached(store)
        if directory is new:
            documents_dir(store).rename(new)
            old.rename(documents_dir(store))


@pytest.mark.usefixtures("cached_from_next_tick")
def test_changes_by_callers_do_not_reach_cache(store: FileStore) -> None:
    """Changes of listed environments, including nested values, do not appear in other listings."""
    settle(store)
    expected = list_uncached(store)
    for found in store.find_all():
        found.name = "mine"
        found.labels["n"] = "mine"
        found.extra["colour"][1]["depth"] = "mine"
        found.extra["new"] = "mine"
    assert list_all(store) == expected


def test_unchecked_copy_is_equal_and_independent() -> None:
    """An unchecked copy has every field, and shares no mutable value."""
    original = make_environment(revision=7)
    copy = original.copy_unchecked()
    for field in fields(Environment):
        value = getattr(original, field.name)
        assert getattr(copy, field.name) == value
        if isinstance(value, (dict, list)):
            assert getattr(copy, field.name) is not value
    assert copy.extra["colour"] is not original.extra["colour"]
    assert copy.extra["colour"][1] is not original.extra["colour"][1]
