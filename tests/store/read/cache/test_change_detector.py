# SPDX-License-Identifier: Apache-2.0
"""Listings that read only the files that inotify names."""

import errno
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.store.read.cache.listings import (
    Listing,
    by_inotify,
    cache_of,
    documents_dir,
    list_all,
    list_uncached,
    opened_documents,
    settle,
)
from tests.store.read.cache.manual_edits import edited, rewrite, rewrite_often
from waggle_fsstore import FileStore
from waggle_fsstore.domain.clock import monotonic
from waggle_fsstore.store.fs import safe_read
from waggle_fsstore.store.read import document_cache, inotify
from waggle_fsstore.store.read.change_detector import ChangeDetector
from waggle_fsstore.testing import make_environment

pytestmark = pytest.mark.usefixtures("trusted_change_times")


@by_inotify
def test_watched_document_is_cached_at_once(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With inotify, a document is cached without delay: each version is read once."""
    list_all(store)
    opened = opened_documents(monkeypatch)
    for number in range(3):
        rewrite(store.document_path("b"), store.document_path("b").read_bytes())
        assert list_all(store) == list_all(store)
        assert opened == ["b.json"] * (number + 1)


@pytest.mark.usefixtures("needs_inotify")
def test_watcher_is_opened_from_100_documents_on(tmp_path: Path) -> None:
    """A second listing of 100 documents opens a watcher, and closing the store closes it."""
    with FileStore(tmp_path / "store", durable=False) as store:
        environments = [make_environment(id=f"env-{number}") for number in range(100)]
        store.save_all(environments[1:])
        for _ in range(3):
            list_all(store)
        assert cache_of(store)._detector._watcher is None
        store.save(environments[0])
        list_all(store)
        assert cache_of(store)._detector._watcher is None
        list_all(store)
        watcher = cache_of(store)._detector._watcher
        assert watcher is not None
        descriptor = watcher._descriptor
        os.fstat(descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@by_inotify
def test_closed_store_opens_no_watcher(store: FileStore) -> None:
    """A thread that lists while another one closes the store opens no new watcher."""
    list_all(store)
    assert cache_of(store)._detector._watcher is not None
    store.close()
    for _ in range(3):
        assert len(cache_of(store).read_all()[0]) == 3
    assert cache_of(store)._detector._watcher is None


@by_inotify
def test_store_without_watcher_uses_signatures(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the user's limit of watchers is reached, changes are detected by signature."""

    def refuse() -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(inotify, "inotify_init", refuse)
    rewrite_often(store)
    assert cache_of(store)._detector._watcher is None


@by_inotify
@pytest.mark.usefixtures("cached_from_next_tick")
def test_edit_through_link_in_other_directory_is_seen_after_5_s(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit through a link in another directory is seen after 5 s, and later ones at once."""
    settle(store)
    path = store.document_path("b")
    link = tmp_path / "link"
    os.link(path, link)
    rewrite(link, edited(link))
    list_all(store)
    now = monotonic()
    monkeypatch.setattr("waggle_fsstore.store.read.change_detector.monotonic", lambda: now + 5.1)
    assert store.find_all()[1].name == "after!"
    monkeypatch.undo()
    for name in (b"1first", b"2nd...", b"3third"):
        rewrite(link, re.sub(rb'"name": "......"', b'"name": "%b"' % name, link.read_bytes()))
        assert store.find_all()[1].name == name.decode()


@pytest.mark.usefixtures("cached_from_next_tick")
def test_listing_in_signal_handler_takes_no_events(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A listing in a signal handler is correct, and leaves all events to the one it interrupts."""
    settle(store)
    paths = [store.document_path(name) for name in "abc"]
    inside: list[Listing] = []

    def read(path: str, *rest: Any) -> Any:
        if not inside:
            inside.append(([], []))
            rewrite(paths[0], edited(paths[0]))
            inside.append(list_all(store))
            inside.append(list_uncached(store))
        return safe_read.read_with_status(path, *rest)

    rewrite(paths[1], edited(paths[1]))
    with monkeypatch.context() as patch:
        patch.setattr(document_cache, "read_with_status", read)
        list_all(store)
    assert inside[1] == inside[2]
    assert [one.name for one in store.find_all()] == ["after!", "after!", "before"]


@by_inotify
def test_listing_in_signal_handler_sees_what_was_stored_before(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lists the names itself: the one that it interrupts has not read the events yet."""
    for _ in range(3):
        list_all(store)
        store.count()
    FileStore(store.path, durable=False).save(make_environment(id="d"))
    inside: list[Listing] = []
    real = ChangeDetector.changed

    def changed(self: ChangeDetector, *given: Any, **options: Any) -> set[str] | None:
        inside.append(list_all(store))
        return real(self, *given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(ChangeDetector, "changed", changed)
        list_all(store)
    assert inside == [list_uncached(store)]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EMFILE, "too many")])
@pytest.mark.usefixtures("cached_from_next_tick")
def test_interrupted_listing_loses_no_change(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """The changes that an interrupted listing had already detected are seen by the next one."""
    settle(store)
    for name in "ab":
        path = store.document_path(name)
        rewrite(path, edited(path))

    def read(path: str, *rest: Any) -> Any:
        if path.endswith("b.json"):
            raise error
        return safe_read.read_with_status(path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(document_cache, "read_with_status", read)
        with pytest.raises(type(error)):
            list_all(store)
    assert [one.name for one in store.find_all()] == ["after!", "after!", "before"]


@by_inotify
@pytest.mark.parametrize("is_interrupted", [False, True])
def test_recreated_directory_with_same_inode_is_detected(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, is_interrupted: bool
) -> None:
    """A removed directory is no longer relied on, even if a new one gets its inode."""
    monkeypatch.setattr(inotify, "_inode", lambda _: (1, 1))
    directory = documents_dir(store)
    # A store object that has written holds its directory open, and keeps the inode in use.
    with FileStore(store.path, durable=False) as reader:
        settle(reader)
        documents = {path: path.read_bytes() for path in directory.iterdir()}
        store.close()
        shutil.rmtree(directory)
        directory.mkdir()
        for path, data in documents.items():
            path.write_bytes(data)
        if is_interrupted:

            def interrupted(_: bytes) -> str:
                raise KeyboardInterrupt

            with monkeypatch.context() as patch:
                patch.setattr(os, "fsdecode", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    cache_of(reader)._refresh()
        list_all(reader)
        rewrite(reader.document_path("b"), edited(reader.document_path("b")))
        assert list_all(reader) == list_uncached(reader)
        reader.document_path("a").unlink()
        assert list_all(reader) == list_uncached(reader)
