# SPDX-License-Identifier: Apache-2.0
"""Tests and test data for whoever writes a store, or writes code that uses one. Needs pytest.

Subclass a contract, give it its one fixture, and pytest runs it::

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
