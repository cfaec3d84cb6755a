# SPDX-License-Identifier: Apache-2.0
"""The contracts, run against each store."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from waggle_fsstore import FileStore, MemoryStore
from waggle_fsstore.testing import HistoryContract, PersistenceContract, TransactionalContract


class TestMemoryStore(HistoryContract, TransactionalContract):
    @pytest.fixture
    def repository(self) -> MemoryStore:
        return MemoryStore()


class TestFileStore(HistoryContract, TransactionalContract):
    @pytest.fixture
    def repository(self, tmp_path: Path) -> Iterator[FileStore]:
        with FileStore(tmp_path / "store", durable=False) as store:
            yield store


class TestFileStorePersistence(PersistenceContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Iterator[Callable[[], FileStore]]:
        stores: list[FileStore] = []

        def open_store() -> FileStore:
            stores.append(FileStore(tmp_path / "store", durable=False))
            return stores[-1]

        yield open_store
        for store in stores:
            store.close()


class TestDurableFileStorePersistence(PersistenceContract):
    @pytest.fixture
    def open_store(self, tmp_path: Path) -> Callable[[], FileStore]:
        return lambda: FileStore(tmp_path / "store")
