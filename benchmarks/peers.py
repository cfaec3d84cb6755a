# SPDX-License-Identifier: Apache-2.0
"""The peers: other ways to store the same documents, each as a small repository.

All peers validate their arguments as the stores do, write the same bytes as the stores, decode
what they return, and number their revisions. They count revisions in memory, which saves them a
second statement, and have no lock between threads.
"""

import gc
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from benchmarks.device import settle
from benchmarks.peer_sqlite import Sqlite
from waggle_fsstore import Environment, FileStore

FILE_STORE: Final = "FileStore"
FILE_STORE_UNSYNCED: Final = "FileStore unsynced"
SQLITE_FULL: Final = "sqlite3 FULL"
SQLITE_HISTORY: Final = "sqlite3 FULL + history"
SQLITE_NORMAL: Final = "sqlite3 NORMAL"
LMDB_SYNC: Final = "lmdb sync"
LMDB_HISTORY: Final = "lmdb sync + history"
LMDB_NOSYNC: Final = "lmdb nosync"


class Peer(Protocol):
    """A repository to measure, open and filled."""

    def save(self, environment: Environment) -> int:
        """Insert or replace an environment, and return its revision."""
        ...

    def save_all(self, environments: list[Environment]) -> list[int]:
        """Insert or replace all environments or none, and return their revisions."""
        ...

    def find_by_id(self, environment_id: str) -> Environment:
        """Return an environment, decoded."""
        ...

    def find_all(self) -> list[Environment]:
        """Return all environments, decoded and sorted by id."""
        ...

    def count(self) -> int:
        """Return the number of environments."""
        ...

    def delete(self, environment_id: str) -> None:
        """Delete a stored environment."""
        ...

    def close(self) -> None:
        """Close the files."""
        ...


class Entrant(NamedTuple):
    """A named peer: its durability once a save has returned, and how to open it."""

    name: str
    is_synced: bool
    durability: str
    open: Callable[[Path, list[Environment]], Peer]


def entrants() -> tuple[list[Entrant], str]:
    """Return the peers that can run here, and a remark on any that cannot, else ""."""
    found = [
        Entrant(
            FILE_STORE,
            True,
            "every save: survives a power cut, one readable file for each document",
            lambda directory, environments: _file_store(directory, environments, durable=True),
        ),
        Entrant(
            FILE_STORE_UNSYNCED,
            False,
            "durable=False: survives the end of the process; a power cut may lose or damage"
            " documents",
            lambda directory, environments: _file_store(directory, environments, durable=False),
        ),
        Entrant(
            SQLITE_FULL,
            True,
            "WAL, synchronous=FULL, every save: survives a power cut",
            lambda directory, environments: Sqlite(directory, environments, "FULL"),
        ),
        Entrant(
            SQLITE_HISTORY,
            True,
            "as sqlite3 FULL, and each save adds a row of history, as FileStore does",
            lambda directory, environments: Sqlite(directory, environments, "FULL", history=True),
        ),
        Entrant(
            SQLITE_NORMAL,
            False,
            "WAL, synchronous=NORMAL: survives the end of the process; a power cut takes the"
            " last saves, the rest stays whole",
            lambda directory, environments: Sqlite(directory, environments, "NORMAL"),
        ),
    ]
    try:
        from benchmarks.peer_lmdb import Lmdb
    except ImportError:
        return found, "lmdb is not installed, so its rows are missing: pip install lmdb"
    found += [
        Entrant(
            LMDB_SYNC,
            True,
            "the default, every save: survives a power cut",
            lambda directory, environments: Lmdb(directory, environments, sync=True),
        ),
        Entrant(
            LMDB_HISTORY,
            True,
            "as lmdb sync, and each save adds an entry of history, as FileStore does",
            lambda directory, environments: Lmdb(directory, environments, sync=True, history=True),
        ),
        Entrant(
            LMDB_NOSYNC,
            False,
            "sync=False: survives the end of the process; a power cut may damage the whole"
            " database",
            lambda directory, environments: Lmdb(directory, environments, sync=False),
        ),
    ]
    return found, ""


def light_entrants() -> list[Entrant]:
    """Return the small libraries that are installed; they may be slow with many documents."""
    try:
        from benchmarks import peer_light
    except ImportError:
        return []
    return [
        Entrant(
            peer_light.BORGSTORE,
            True,
            "one file for each value, synced, with a rename: a power cut may take the name of a"
            " new file",
            peer_light.open_borgstore,
        ),
        Entrant(
            peer_light.DISKCACHE,
            False,
            "SQLite, WAL, synchronous=NORMAL: a power cut takes the last saves",
            peer_light.open_diskcache,
        ),
        Entrant(
            peer_light.SQLITEDICT,
            False,
            "SQLite, synchronous=OFF: a power cut may damage the whole database",
            peer_light.open_sqlitedict,
        ),
        Entrant(
            peer_light.TINYDB,
            False,
            "one JSON file, overwritten in place: the end of the process in the middle of a save"
            " may damage all of it",
            peer_light.open_tinydb,
        ),
    ]


@contextmanager
def open_peers(
    directory: Path, entrants: list[Entrant], environments: list[Environment]
) -> Iterator[dict[str, Peer]]:
    """Yield all peers by name, filled, and remove their files afterwards."""
    roots = [directory / f"peer-{index}" for index in range(len(entrants))]
    try:
        with ExitStack() as stack:
            peers = {}
            for entrant, root in zip(entrants, roots, strict=True):
                peers[entrant.name] = entrant.open(root, environments)
                stack.callback(peers[entrant.name].close)
            settle(directory)
            # A garbage collection would slow down the peer being measured.
            gc.collect()
            gc.disable()
            stack.callback(gc.enable)
            yield peers
    finally:
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)


def compare(peers: dict[str, Peer]) -> None:
    """Raise ``RuntimeError`` unless all peers have the same environments."""
    first, *others = peers
    expected = peers[first].find_all()
    for other in others:
        if peers[other].find_all() != expected:
            raise RuntimeError(f"{other} does not hold the same documents as {first}")


def _file_store(directory: Path, environments: list[Environment], *, durable: bool) -> FileStore:
    if environments:  # Else another process has filled it.
        with FileStore(directory, durable=False) as filling:
            for environment in environments:
                filling.save(environment)
    return FileStore(directory, durable=durable)
