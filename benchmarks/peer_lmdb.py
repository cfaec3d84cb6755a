# SPDX-License-Identifier: Apache-2.0
"""The peer on LMDB: one database from ids to documents, one transaction for each save."""

import itertools
from pathlib import Path
from typing import Final

import lmdb

from waggle_fsstore import Environment, EnvironmentNotFoundError
from waggle_fsstore.domain.validation import is_id
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.write import inputs

# Limits the address space; the file has only the size of the data written.
_MAP_BYTES: Final = 1 << 30


class Lmdb:
    """See :class:`benchmarks.peers.Peer`. ``sync=False`` leaves syncing to the system.

    With ``history``, each save also adds the document to a second database, under its revision,
    in the same transaction.
    """

    def __init__(
        self,
        directory: Path,
        environments: list[Environment],
        *,
        sync: bool,
        history: bool = False,
    ) -> None:
        self._path = str(directory)
        self._revisions = itertools.count(1)
        self._environment = lmdb.open(self._path, map_size=_MAP_BYTES, sync=sync, max_dbs=2)
        self._documents = self._environment.open_db(b"documents")
        self._history = self._environment.open_db(b"history") if history else None
        self.save_all(environments)

    def save(self, environment: Environment) -> int:
        """See :class:`benchmarks.peers.Peer`."""
        environment = inputs.checked_copy(environment)
        revision = next(self._revisions)
        data = codec.encode(environment, revision)
        with self._environment.begin(self._documents, write=True) as transaction:
            transaction.put(environment.id.encode(), data)
            if self._history is not None:
                transaction.put(_key(revision), data, db=self._history, append=True)
        return revision

    def save_all(self, environments: list[Environment]) -> list[int]:
        """See :class:`benchmarks.peers.Peer`."""
        batch = [(inputs.checked_copy(each), next(self._revisions)) for each in environments]
        items = [(each.id.encode(), codec.encode(each, revision)) for each, revision in batch]
        with self._environment.begin(self._documents, write=True) as transaction:
            transaction.cursor().putmulti(items)
            if self._history is not None:
                past = [
                    (_key(revision), data)
                    for (_, revision), (_, data) in zip(batch, items, strict=True)
                ]
                transaction.cursor(self._history).putmulti(past, append=True)
        return [revision for _, revision in batch]

    def find_by_id(self, environment_id: str) -> Environment:
        """See :class:`benchmarks.peers.Peer`."""
        if is_id(environment_id):
            with self._environment.begin(self._documents) as transaction:
                data = transaction.get(environment_id.encode())
            if data is not None:
                return codec.decode(data, self._path)
        raise EnvironmentNotFoundError(environment_id)

    def find_all(self) -> list[Environment]:
        """See :class:`benchmarks.peers.Peer`. Keys are sorted by their bytes."""
        with self._environment.begin(self._documents) as transaction:
            values = transaction.cursor().iternext(keys=False)
            return [codec.decode(data, self._path) for data in values]

    def count(self) -> int:
        """See :class:`benchmarks.peers.Peer`. LMDB stores the number."""
        with self._environment.begin(self._documents) as transaction:
            return int(transaction.stat(self._documents)["entries"])

    def delete(self, environment_id: str) -> None:
        """See :class:`benchmarks.peers.Peer`."""
        next(self._revisions)
        with self._environment.begin(self._documents, write=True) as transaction:
            if not transaction.delete(environment_id.encode()):
                raise EnvironmentNotFoundError(environment_id)

    def close(self) -> None:
        """See :class:`benchmarks.peers.Peer`."""
        self._environment.close()


def _key(revision: int) -> bytes:
    """Return a key that sorts as the revision does."""
    return revision.to_bytes(8, "big")
