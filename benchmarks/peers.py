# SPDX-License-Identifier: Apache-2.0
"""The peers: other ways to keep the same documents, each as a small repository.

All of them check what they are given as the stores do, write the very bytes that the
stores write, decode what they return, and number their revisions. They count those in
memory, which spares them a second statement, and do without a lock of their own between
threads.
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
SQLITE_NORMAL: Final = "sqlite3 NORMAL"
LMDB_SYNC: Final = "lmdb sync"
LMDB_NOSYNC: Final = "lmdb nosync"


class Peer(Protocol):
    """A repository under measurement, open and filled."""

    def save(self, environment: Environment) -> int:
        """Insert or replace; returns the revision."""
        ...

    def save_all(self, environments: list[Environment]) -> list[int]:
        """Insert or replace all or none; returns their revisions."""
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


def entrants() -> tuple[list[Entrant], str]:
    """All that can run here, and a remark on what cannot, "" for nothing."""
    found = [
        Entrant(
            FILE_STORE,
            True,
            "every save: survives a power cut, in a readable file of its own",
            lambda folder, environments: _file_store(folder, environments, durable=True),
        ),
        Entrant(
            FILE_STORE_UNSYNCED,
            False,
            "durable=False: survives the end of the process; a power cut may lose or damage"
            " documents",
            lambda folder, environments: _file_store(folder, environments, durable=False),
        ),
        Entrant(
            SQLITE_FULL,
            True,
            "WAL, synchronous=FULL, every save: survives a power cut",
            lambda folder, environments: Sqlite(folder, environments, "FULL"),
        ),
        Entrant(
            SQLITE_NORMAL,
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
            LMDB_SYNC,
            True,
            "the default, every save: survives a power cut",
            lambda folder, environments: Lmdb(folder, environments, sync=True),
        ),
        Entrant(
            LMDB_NOSYNC,
            False,
            "sync=False: survives the end of the process; a power cut may damage the whole"
            " database",
            lambda folder, environments: Lmdb(folder, environments, sync=False),
        ),
    ]
    return found, ""


@contextmanager
def open_peers(
    folder: Path, entrants: list[Entrant], environments: list[Environment]
) -> Iterator[dict[str, Peer]]:
    """All peers, filled. Their files are removed afterwards."""
    roots = [folder / f"peer-{index}" for index in range(len(entrants))]
    try:
        with ExitStack() as stack:
            peers = {}
            for entrant, root in zip(entrants, roots, strict=True):
                peers[entrant.name] = entrant.open(root, environments)
                stack.callback(peers[entrant.name].close)
            settle(folder)
            # A collection would hit whoever is measured just then.
            gc.collect()
            gc.disable()
            stack.callback(gc.enable)
            yield peers
    finally:
        for root in roots:
            shutil.rmtree(root, ignore_errors=True)


def compare(peers: dict[str, Peer]) -> None:
    """Refuse figures of peers that did not end up with the same environments."""
    first, *others = peers
    expected = peers[first].find_all()
    for other in others:
        if peers[other].find_all() != expected:
            raise RuntimeError(f"{other} does not hold the same documents as {first}")


def _file_store(folder: Path, environments: list[Environment], *, durable: bool) -> FileStore:
    with FileStore(folder, durable=False) as filling:
        for environment in environments:
            filling.save(environment)
    return FileStore(folder, durable=durable)
