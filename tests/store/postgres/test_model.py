# SPDX-License-Identifier: Apache-2.0
"""PostgresStore against MemoryStore: both answer the same to each sequence of calls."""

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

import psycopg

from tests.store.postgres.servers import Server
from tests.store.state_machine import Stores
from waggle_fsstore.store.postgres.store import PostgresStore


class PostgresStores(Stores):
    """Handles on a PostgresStore."""

    def __init__(self, server: Server) -> None:
        self.server = server
        super().__init__()

    def make_place(self) -> None:
        self.server.execute("DROP SCHEMA IF EXISTS waggle CASCADE")

    def open(self) -> PostgresStore:
        return PostgresStore(self.server.url, durable=False)

    def read(self, environment_id: str) -> str | None:
        if not self.handles[0].count():  # There may be no tables.
            return None
        query = b"SELECT document::text FROM waggle.document WHERE id = %s"
        with psycopg.connect(self.server.url) as connection:
            found = connection.execute(query, [environment_id]).fetchone()
        return None if found is None else str(found[0])

    def write(self, environment_id: str, text: str) -> None:
        query = b"UPDATE waggle.document SET document = %s::json WHERE id = %s"
        with psycopg.connect(self.server.url) as connection:
            connection.execute(query, [text, environment_id])


@pytest.mark.longest
def test_store_answers_as_the_model(server: Server) -> None:
    """A PostgresStore and a MemoryStore answer the same to each sequence of calls."""
    run_state_machine_as_test(
        lambda: PostgresStores(server),  # type: ignore[arg-type]  # Any callable will do.
        settings=settings(max_examples=20, stateful_step_count=25),
    )
