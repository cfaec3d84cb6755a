# SPDX-License-Identifier: Apache-2.0
"""Listings of a store, with its cache and without, and a look into the cache."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from waggle_fsstore import Environment, FileStore
from waggle_fsstore.store.fs import safe_read
from waggle_fsstore.store.fs.linux import file_clock
from waggle_fsstore.store.read import document_cache, documents

Listing = tuple[list[tuple[Environment, int]], list[str]]

# The minimum number of documents for a watcher.
NEVER, ALWAYS = 1 << 30, 0

by_signature = pytest.mark.parametrize("store", [NEVER], ids=["by signature"], indirect=True)
by_inotify = pytest.mark.parametrize("store", [ALWAYS], indirect=True)


def documents_dir(store: FileStore) -> Path:
    return store.path / "environments"


def list_all(store: FileStore) -> Listing:
    """Return the environments with their revisions, and the errors."""
    errors: list[Exception] = []
    found = store.find_all(on_corrupt=errors.append)
    # The equality of environments ignores the revision.
    return [(one, one.revision) for one in found], [f"{type(one)} {one}" for one in errors]


def live_names(listing: Listing) -> set[str]:
    """Return the file names of the live environments in a listing."""
    return {f"{one.id}.json" for one, _ in listing[0] if one.status.is_live}


def list_uncached(store: FileStore) -> Listing:
    """Return the listing of a new store object, which has nothing in its cache."""
    return list_all(FileStore(store.path, durable=False))


def settle(store: FileStore) -> None:
    """Wait for the next clock tick, and have all documents and their number cached."""
    directory = documents_dir(store)
    newest = max(path.stat().st_ctime_ns for path in (directory, *os.scandir(directory)))
    while file_clock() <= newest:
        pass
    list_all(store)
    store.count()


def cache_of(store: FileStore) -> document_cache.DocumentCache:
    return store._documents


def cached_names(store: FileStore) -> set[str]:
    return set((cache_of(store)._contents or document_cache._EMPTY).entries)


def opened_documents(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which the name of each document is added when it is opened."""
    names: list[str] = []

    def listening(read: Callable[..., Any]) -> Callable[..., Any]:
        def listen(path: str, *rest: Any) -> Any:
            names.append(os.path.basename(path))
            return read(path, *rest)

        return listen

    monkeypatch.setattr(documents, "read_regular", listening(safe_read.read_regular))
    for module in (documents, document_cache):
        monkeypatch.setattr(module, "read_with_status", listening(safe_read.read_with_status))
    return names


def names_listed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which each directory is added when its names are listed."""
    made: list[str] = []
    real = document_cache.DocumentCache.names

    def names(self: document_cache.DocumentCache, *opened: int) -> list[str]:
        made.append(self._layout.environments)
        return real(self, *opened)

    monkeypatch.setattr(document_cache.DocumentCache, "names", names)
    return made
