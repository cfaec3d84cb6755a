# SPDX-License-Identifier: Apache-2.0
"""The peer on SQLite: one table in WAL mode, one transaction for each save."""

import itertools
import sqlite3
import threading
from pathlib import Path
from typing import Final

from waggle_fsstore import Environment, EnvironmentNotFoundError
from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.write import inputs

# SQLite makes a checkpoint once its log has this many pages. This is its default.
_LOG_PAGES: Final = 1_000

# A few more, so that the log has its full size before the measurements.
_LOG_SAVES: Final = _LOG_PAGES + 100

# How long a thread waits for its turn: longer than any turn takes.
_BUSY_TIMEOUT_S: Final = 60.0

_SAVE: Final = (
    "INSERT INTO environments VALUES (?, ?)"
    " ON CONFLICT (id) DO UPDATE SET document = excluded.document"
)

_ADD_TO_HISTORY: Final = "INSERT INTO history (document) VALUES (?)"


class _Connection(threading.local):
    """A connection for each thread."""

    def __init__(self, path: str, synchronous: str, opened: list[sqlite3.Connection]) -> None:
        connection = sqlite3.connect(
            path, isolation_level=None, timeout=_BUSY_TIMEOUT_S, check_same_thread=False
        )
        opened.append(connection)
        self.execute = connection.execute
        self.execute_many = connection.executemany
        self.execute("PRAGMA journal_mode=WAL")
        self.execute(f"PRAGMA synchronous={synchronous}")
        self.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")


class Sqlite:
    """See :class:`benchmarks.peers.Peer`. ``synchronous`` is the pragma that says when to sync.

    With ``history``, each save also adds a row with the document, in the same transaction.
    """

    def __init__(
        self,
        directory: Path,
        environments: list[Environment],
        synchronous: str,
        *,
        history: bool = False,
    ) -> None:
        self._history = history
        directory.mkdir(exist_ok=True)
        self._path = str(directory / "environments.db")
        self._revisions = itertools.count(1)
        self._opened: list[sqlite3.Connection] = []
        self._own = _Connection(self._path, synchronous, self._opened)
        self._own.execute(
            "CREATE TABLE IF NOT EXISTS environments"
            " (id TEXT PRIMARY KEY, document BLOB) WITHOUT ROWID"
        )
        self._own.execute(
            "CREATE TABLE IF NOT EXISTS history (change INTEGER PRIMARY KEY, document BLOB)"
        )
        if environments:  # Else another process has filled it.
            self._fill(environments)
        self._own.execute(f"PRAGMA synchronous={synchronous}")
        self._own.execute(f"PRAGMA wal_autocheckpoint={_LOG_PAGES}")

    def _fill(self, environments: list[Environment]) -> None:
        """Store the environments, and leave a log of full size, which is then overwritten.

        A log that still grows is slower to sync: the device has to store its new size too.
        """
        self._own.execute("PRAGMA synchronous=OFF")
        self._own.execute("PRAGMA wal_autocheckpoint=0")
        for index in range(_LOG_SAVES):
            self.save(environments[index % len(environments)])
        self._revisions = itertools.count(1)
        self.save_all(environments)
        self._own.execute("PRAGMA wal_checkpoint(RESTART)")

    def save(self, environment: Environment) -> int:
        """See :class:`benchmarks.peers.Peer`."""
        environment = inputs.checked_copy(environment)
        revision = next(self._revisions)
        data = codec.encode(environment, revision)
        if self._history:
            self._own.execute("BEGIN IMMEDIATE")
            self._own.execute(_SAVE, (environment.id, data))
            self._own.execute(_ADD_TO_HISTORY, (data,))
            self._own.execute("COMMIT")
        else:
            self._own.execute(_SAVE, (environment.id, data))
        return revision

    def save_all(self, environments: list[Environment]) -> list[int]:
        """See :class:`benchmarks.peers.Peer`."""
        batch = [(inputs.checked_copy(each), next(self._revisions)) for each in environments]
        self._own.execute("BEGIN IMMEDIATE")
        rows = [(each.id, codec.encode(each, revision)) for each, revision in batch]
        self._own.execute_many(_SAVE, rows)
        if self._history:
            self._own.execute_many(_ADD_TO_HISTORY, [(data,) for _, data in rows])
        self._own.execute("COMMIT")
        return [revision for _, revision in batch]

    def find_by_id(self, environment_id: str) -> Environment:
        """See :class:`benchmarks.peers.Peer`."""
        if is_id(environment_id):
            row = self._own.execute(
                "SELECT document FROM environments WHERE id = ?", (environment_id,)
            ).fetchone()
            if row is not None:
                return codec.decode(row[0], self._path)
        raise EnvironmentNotFoundError(environment_id)

    def find_all(self) -> list[Environment]:
        """See :class:`benchmarks.peers.Peer`."""
        rows = self._own.execute("SELECT document FROM environments ORDER BY id")
        return [codec.decode(document, self._path) for (document,) in rows]

    def count(self) -> int:
        """See :class:`benchmarks.peers.Peer`."""
        (number,) = self._own.execute("SELECT count(*) FROM environments").fetchone()
        return int(number)

    def delete(self, environment_id: str) -> None:
        """See :class:`benchmarks.peers.Peer`."""
        next(self._revisions)
        removed = self._own.execute("DELETE FROM environments WHERE id = ?", (environment_id,))
        if removed.rowcount == 0:
            raise EnvironmentNotFoundError(environment_id)

    def close(self) -> None:
        """See :class:`benchmarks.peers.Peer`."""
        for connection in self._opened:
            connection.close()
