# SPDX-License-Identifier: Apache-2.0
"""The contracts, run against a store in PostgreSQL."""

from waggle_fsstore.testing import HistoryContract, PersistenceContract, TransactionalContract


class TestPostgresStore(HistoryContract, TransactionalContract):
    pass


class TestPostgresStorePersistence(PersistenceContract):
    pass
