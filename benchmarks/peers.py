# SPDX-License-Identifier: Apache-2.0
"""The peers: other ways to keep the same documents, each as a small repository.

All of them check what they are given as the stores do, write the very bytes that the
stores write, decode what they return, and number their revisions. They count those in
memory, which spares them a second statement, and do without a lock between threads.
"""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from waggle_fsstore import Environment, EnvironmentNotFoundError, FileStore
from waggle_fsstore.domain.values import is_id
from waggle_fsstore.store import codec, incoming

# A few more pages than SQLite lets pile up in its log before it copies them (1,000).
_LOG_SAVES: Final = 1_100


class Peer(Protocol):
    """A repository under measurement, open and filled."""

    def save(self, environment: Environment) -> int:
        """Insert or replace; returns the revision."""
        ...

    def find_by_id(self, environment_id: str) -> Environment:
        """Get one and decode it."""
        ...

    def find_all(self) -> list[Environment]:
        """Get all, sorted by id, and decode them."""
        ...

    def count(self) -> int:
        """The number stored."""
        ...

    def delete(self, environment_id: str) -> None:
        """Remove one that is stored."""
        ...

    def close(self) -> None:
        """Release the files."""
        ...


class Entrant(NamedTuple):
    """A peer by name: what it promises when a save has returned, and how it is opened."""

    name: str
    is_synced: bool
    durability: str
    open: Callable[[Path, list[Environment]], Peer]


class Sqlite:
    """One table in the write-ahead log mode of SQLite; a save is a transaction of its own."""

    def __init__(self, folder: Path, environments: list[Environment], synchronous: str) -> None:
        folder.mkdir()
        self._path = str(folder / "environments.db")
        self._revision = 0
        self._connection = sqlite3.connect(self._path, isolation_level=None)
        self._execute = self._connection.execute
        self._execute("PRAGMA journal_mode=WAL")
        self._execute(
            "CREATE TABLE environments (id TEXT PRIMARY KEY, document BLOB) WITHOUT ROWID"
        )
        self._fill(environments)
        self._execute(f"PRAGMA synchronous={synchronous}")

    def _fill(self, environments: list[Environment]) -> None:
        """Store these, and leave a log that is long enough to be written over from its start.

        A log that still grows is slower to flush: the device has to keep its new size too.
        """
        self._execute("PRAGMA synchronous=OFF")
        self._execute("PRAGMA wal_autocheckpoint=0")
        for index in range(_LOG_SAVES):
            self.save(environments[index % len(environments)])
        self._revision = 0
        self._execute("BEGIN")
        for environment in environments:
            self.save(environment)
        self._execute("COMMIT")
        self._execute("PRAGMA wal_checkpoint(RESTART)")
        self._execute("PRAGMA wal_autocheckpoint=1000")

    def save(self, environment: Environment) -> int:
        """See :class:`Peer`."""
        environment = incoming.checked(environment)
        self._revision += 1
        self._execute(
            "INSERT INTO environments VALUES (?, ?)"
            " ON CONFLICT (id) DO UPDATE SET document = excluded.document",
            (environment.id, codec.encode(environment, self._revision)),
        )
        return self._revision

    def find_by_id(self, environment_id: str) -> Environment:
        """See :class:`Peer`."""
        if is_id(environment_id):
            row = self._execute(
                "SELECT document FROM environments WHERE id = ?", (environment_id,)
            ).fetchone()
            if row is not None:
                return codec.decode(row[0], self._path)
        raise EnvironmentNotFoundError(environment_id)

    def find_all(self) -> list[Environment]:
        """See :class:`Peer`."""
        rows = self._execute("SELECT document FROM environments ORDER BY id")
        return [codec.decode(document, self._path) for (document,) in rows]

    def count(self) -> int:
        """See :class:`Peer`."""
        (number,) = self._execute("SELECT count(*) FROM environments").fetchone()
        return int(number)

    def delete(self, environment_id: str) -> None:
        """See :class:`Peer`."""
        self._revision += 1
        removed = self._execute("DELETE FROM environments WHERE id = ?", (environment_id,))
        if removed.rowcount == 0:
            raise EnvironmentNotFoundError(environment_id)

    def close(self) -> None:
        """See :class:`Peer`."""
        self._connection.close()


def entrants() -> tuple[list[Entrant], str]:
    """All that can run here, and a remark on what cannot, "" for nothing."""
    found = [
        Entrant(
            "FileStore",
            True,
            "every save: survives a power cut, in a readable file of its own",
            lambda folder, environments: _file_store(folder, environments, durable=True),
        ),
        Entrant(
            "FileStore unsynced",
            False,
            "durable=False: survives the end of the process; a power cut may lose or damage"
            " documents",
            lambda folder, environments: _file_store(folder, environments, durable=False),
        ),
        Entrant(
            "sqlite3 FULL",
            True,
            "WAL, synchronous=FULL, every save: survives a power cut",
            lambda folder, environments: Sqlite(folder, environments, "FULL"),
        ),
        Entrant(
            "sqlite3 NORMAL",
            False,
            "WAL, synchronous=NORMAL: survives the end of the process; a power cut takes the"
            " last saves, the rest stays whole",
            lambda folder, environments: Sqlite(folder, environments, "NORMAL"),
        ),
    ]
    try:
        from benchmarks.peer_lmdb import Lmdb
    except ImportError:
        return found, "lmdb is not installed, so its rows are missing: pip install lmdb"
    found += [
        Entrant(
            "lmdb sync",
            True,
            "the default, every save: survives a power cut",
            lambda folder, environments: Lmdb(folder, environments, sync=True),
        ),
        Entrant(
            "lmdb nosync",
            False,
            "sync=False: survives the end of the process; a power cut may damage the whole"
            " database",
            lambda folder, environments: Lmdb(folder, environments, sync=False),
        ),
    ]
    return found, ""


def _file_store(folder: Path, environments: list[Environment], *, durable: bool) -> FileStore:
    with FileStore(folder, durable=False) as filling:
        for environment in environments:
            filling.save(environment)
    return FileStore(folder, durable=durable)
