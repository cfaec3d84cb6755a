# SPDX-License-Identifier: Apache-2.0
"""The light peers: small libraries that keep values under keys, each in its default settings."""

import itertools
from collections.abc import Callable, Iterable
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, NamedTuple

import diskcache  # type: ignore[import-untyped]
import sqlitedict  # type: ignore[import-untyped]
import tinydb
from borgstore.store import Store  # type: ignore[import-untyped]

from waggle_fsstore import Environment
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.write import inputs

DISKCACHE: Final = "diskcache"
SQLITEDICT: Final = "sqlitedict"
BORGSTORE: Final = "borgstore posixfs"
TINYDB: Final = "tinydb"

_NAMESPACE: Final = "environments"


class _Calls(NamedTuple):
    """What a library does with bytes under a key."""

    put: Callable[[str, bytes], object]
    get: Callable[[str], bytes]
    delete: Callable[[str], object]
    values: Callable[[], Iterable[bytes]]
    length: Callable[[], int]
    close: Callable[[], object]


class Light:
    """See :class:`benchmarks.peers.Peer`; ``save_all`` is no transaction."""

    def __init__(self, calls: _Calls, environments: list[Environment]) -> None:
        self._calls = calls
        self._revisions = itertools.count(1)
        self.save_all(environments)

    def save(self, environment: Environment) -> int:
        """See :class:`benchmarks.peers.Peer`."""
        environment = inputs.checked_copy(environment)
        revision = next(self._revisions)
        self._calls.put(environment.id, codec.encode(environment, revision))
        return revision

    def save_all(self, environments: list[Environment]) -> list[int]:
        """See :class:`benchmarks.peers.Peer`."""
        return [self.save(environment) for environment in environments]

    def find_by_id(self, environment_id: str) -> Environment:
        """See :class:`benchmarks.peers.Peer`."""
        return codec.decode(self._calls.get(environment_id), environment_id)

    def find_all(self) -> list[Environment]:
        """See :class:`benchmarks.peers.Peer`."""
        found = [codec.decode(data, "document") for data in self._calls.values()]
        return sorted(found, key=attrgetter("id"))

    def count(self) -> int:
        """See :class:`benchmarks.peers.Peer`."""
        return self._calls.length()

    def delete(self, environment_id: str) -> None:
        """See :class:`benchmarks.peers.Peer`."""
        self._calls.delete(environment_id)

    def close(self) -> None:
        """See :class:`benchmarks.peers.Peer`."""
        self._calls.close()


def open_diskcache(directory: Path, environments: list[Environment]) -> Light:
    """Return a cache of diskcache: SQLite in WAL mode with ``synchronous=NORMAL``."""
    cache = diskcache.Cache(str(directory), eviction_policy="none")
    calls = _Calls(
        cache.__setitem__,
        cache.__getitem__,
        cache.__delitem__,
        lambda: [cache[key] for key in cache],
        cache.__len__,
        cache.close,
    )
    return Light(calls, environments)


def open_sqlitedict(directory: Path, environments: list[Environment]) -> Light:
    """Return a dictionary of sqlitedict, which commits each change with ``synchronous=OFF``."""
    directory.mkdir()
    rows = sqlitedict.SqliteDict(
        str(directory / "environments.db"), encode=lambda data: data, decode=bytes
    )

    def put(key: str, data: bytes) -> None:
        rows[key] = data
        rows.commit()

    def delete(key: str) -> None:
        del rows[key]
        rows.commit()

    calls = _Calls(put, rows.__getitem__, delete, rows.values, rows.__len__, rows.close)
    return Light(calls, environments)


def open_borgstore(directory: Path, environments: list[Environment]) -> Light:
    """Return a store of borgstore: one file for each value, synced before it is renamed."""
    store = Store(url=directory.as_uri(), config={f"{_NAMESPACE}/": {"levels": [0]}})
    store.create()
    store.open()

    def names() -> list[str]:
        return [f"{_NAMESPACE}/{info.name}" for info in store.list(_NAMESPACE)]

    calls = _Calls(
        lambda key, data: store.store(f"{_NAMESPACE}/{key}", data),
        lambda key: bytes(store.load(f"{_NAMESPACE}/{key}")),
        lambda key: store.delete(f"{_NAMESPACE}/{key}"),
        lambda: [bytes(store.load(name)) for name in names()],
        lambda: len(names()),
        store.close,
    )
    return Light(calls, environments)


def open_tinydb(directory: Path, environments: list[Environment]) -> Light:
    """Return a database of TinyDB: one JSON file, written again with each change, not synced."""
    directory.mkdir()
    database = tinydb.TinyDB(directory / "environments.json")
    query: Any = tinydb.Query()
    # Filled with one write: one for each document would take minutes.
    encoded = [(each.id, codec.encode(inputs.checked_copy(each), 1)) for each in environments]
    database.insert_multiple({"id": key, "data": data.decode()} for key, data in encoded)

    def get(key: str) -> bytes:
        found: Any = database.get(query.id == key)
        return bytes(found["data"], "utf-8")

    calls = _Calls(
        lambda key, data: database.upsert({"id": key, "data": data.decode()}, query.id == key),
        get,
        lambda key: database.remove(query.id == key),
        lambda: [bytes(one["data"], "utf-8") for one in database.all()],
        database.__len__,
        database.close,
    )
    return Light(calls, [])
