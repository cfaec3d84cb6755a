# SPDX-License-Identifier: Apache-2.0
"""Tests for new stores, and test data for code that uses a store. Needs pytest.

Subclass a contract and define its one fixture::

    from waggle_fsstore.testing import HistoryContract, TransactionalContract


    class TestMyStore(HistoryContract, TransactionalContract):
        @pytest.fixture
        def repository(self):
            return MyStore()
"""

from waggle_fsstore.testing.factories import make_environment
from waggle_fsstore.testing.history import HistoryContract
from waggle_fsstore.testing.persistence import PersistenceContract
from waggle_fsstore.testing.repository import RepositoryContract
from waggle_fsstore.testing.transactional import TransactionalContract

__all__ = [
    "HistoryContract",
    "PersistenceContract",
    "RepositoryContract",
    "TransactionalContract",
    "make_environment",
]
