# SPDX-License-Identifier: Apache-2.0
"""Tests for new stores and backends, and test data for code that uses them. Needs pytest.

Subclass a contract and define its fixtures: ``files`` and ``environment`` for ``FilesContract``,
``repository`` for all others::

    from waggle_fsstore.testing import HistoryContract, TransactionalContract


    class TestMyStore(HistoryContract, TransactionalContract):
        @pytest.fixture
        def repository(self):
            return MyStore()
"""

from waggle_fsstore.testing.executor import ExecutorContract
from waggle_fsstore.testing.factories import make_environment
from waggle_fsstore.testing.files import FilesContract
from waggle_fsstore.testing.history import HistoryContract
from waggle_fsstore.testing.persistence import PersistenceContract
from waggle_fsstore.testing.repository import RepositoryContract
from waggle_fsstore.testing.transactional import TransactionalContract

__all__ = [
    "ExecutorContract",
    "FilesContract",
    "HistoryContract",
    "PersistenceContract",
    "RepositoryContract",
    "TransactionalContract",
    "make_environment",
]
