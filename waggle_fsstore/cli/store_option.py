# SPDX-License-Identifier: Apache-2.0
"""The store that a verb works on, as the option ``--store`` names it."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

import click

from waggle_fsstore.domain.environment import Environment
from waggle_fsstore.domain.errors import EnvironmentNotFoundError, WaggleError
from waggle_fsstore.domain.repository import TransactionalRepository
from waggle_fsstore.store.file_store import FileStore
from waggle_fsstore.store.format import codec
from waggle_fsstore.store.fs import safe_read
from waggle_fsstore.store.memory_store import MemoryStore
from waggle_fsstore.wiring import open_repository

if TYPE_CHECKING:
    from waggle_fsstore.store.postgres.store import PostgresStore

PersistentStore: TypeAlias = "FileStore | PostgresStore"


@contextmanager
def usage_errors(option: str | None = None) -> Iterator[None]:
    """Turn a ``ValueError`` of the store into a usage error, unless it has its own exit code."""
    try:
        yield
    except WaggleError:
        raise
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


@dataclass(frozen=True, slots=True)
class StoreLocation:
    """The location of the store: the value of ``--store``, or ``None`` for the default store."""

    location: str | None

    def open(self, *, recovers: bool = True) -> TransactionalRepository:
        """Open the store, which need not exist. An invalid location is a usage error."""
        with usage_errors("'--store'"):
            return open_repository(self.location, recovers=recovers)

    def open_to_read(self, *, recovers: bool = True) -> TransactionalRepository:
        """Open the store to read it; ``recovers`` is that of :class:`FileStore`.

        A store named by ``--store`` must exist, because the name may be misspelt. Raises
        ``FileNotFoundError`` otherwise.
        """
        store = self.open(recovers=recovers)
        if self.location is not None and isinstance(store, FileStore) and not store.path.exists():
            raise FileNotFoundError(
                errno.ENOENT, "there is no store; create an environment to begin one", store.path
            )
        return store


def require_persistent(store: TransactionalRepository) -> PersistentStore:
    """Return a store in files or a database; one in memory is a usage error."""
    if isinstance(store, MemoryStore):
        raise click.BadParameter("a store in memory has no files: name a store in a directory")
    return cast("PersistentStore", store)


def place_of(store: PersistentStore) -> Path | str:
    """Return the path of a store in files, or the hosts and the database of another one."""
    return store.path if isinstance(store, FileStore) else store.location


def document_of(store: TransactionalRepository, environment: Environment) -> bytes:
    """Return the document of a stored environment, byte for byte as in its file."""
    if not isinstance(store, FileStore):
        return codec.encode(environment, environment.revision)
    try:
        return raw_document(store, environment.id)
    except FileNotFoundError:  # Deleted in the meantime.
        raise EnvironmentNotFoundError(environment.id) from None


def raw_document(store: FileStore, environment_id: str) -> bytes:
    """Return the content of the file of this id, whether or not it is a valid document.

    Raises :class:`CorruptDocumentError` if it is not a regular file or is too large.
    """
    return safe_read.read_regular(
        str(store.document_path(environment_id)), codec.MAX_DOCUMENT_BYTES
    )
