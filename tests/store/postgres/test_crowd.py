# SPDX-License-Identifier: Apache-2.0
"""Several processes with several threads each, and watchers in other processes."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("psycopg", reason="needs the extra 'postgres'")

from tests.store.postgres import crowd
from tests.store.postgres.servers import Server
from waggle_fsstore.store.postgres.store import PostgresStore
from waggle_fsstore.testing import make_environment

PROCESSES = 3
EVENTS = int(os.environ.get("WAGGLE_TEST_EVENTS", "900")) // (PROCESSES * crowd.THREADS)
PER_PROCESS = EVENTS * crowd.THREADS


def program(role: str, server: Server, number: int, events: int) -> list[str]:
    return [sys.executable, "-m", crowd.__name__, role, server.url, str(number), str(events)]


def test_watchers_see_each_change_once_and_in_order(server: Server) -> None:
    """Changes of all processes reach each watcher, in the order of their numbers, with no gap."""
    total = PROCESSES * PER_PROCESS + 1
    with PostgresStore(server.url, durable=False) as store:
        store.save(make_environment(id="first"))
        watchers = [
            subprocess.Popen(program("watch", server, 0, total), stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        savers = [
            subprocess.Popen(program("save", server, number, PER_PROCESS))
            for number in range(PROCESSES)
        ]
        assert [saver.wait() for saver in savers] == [0] * PROCESSES
        seen = [watcher.communicate()[0] for watcher in watchers]
        assert seen[0] == seen[1]
        assert seen[0].split()[0] == str(total)
        assert store.last_change() == total
